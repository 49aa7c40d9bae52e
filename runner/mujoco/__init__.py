"""An exported policy in plain MuJoCo on the CPU: its ONNX file and its contract alone, in a process of its own.

Neither Isaac Lab nor torch is imported here, and `__main__` refuses both.
"""
