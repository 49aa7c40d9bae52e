"""Stands in for the training script of Isaac Lab 2.3: its flags, its log layout, its way to resume; no simulator."""

import argparse
import re
import sys
import time
from pathlib import Path

import torch

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--task")
parser.add_argument("--num_envs", type=int)
parser.add_argument("--seed", type=int)
parser.add_argument("--max_iterations", type=int)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--load_run")
parser.add_argument("--checkpoint")
parser.add_argument("--headless", action="store_true", required=True)
parser.add_argument("--device", default="cuda:0")
arguments, hydra = parser.parse_known_args()
if wrong := [text for text in hydra if not re.match(r"(\+\+)?(agent|env)\.[\w.]+=", text)]:
    parser.error(f"unrecognized arguments: {' '.join(wrong)}")
given = dict(text.lstrip("+").split("=", 1) for text in hydra)
if given.get("agent.device") != "cpu" and not torch.cuda.is_available():  # `--device` moves the simulation alone
    raise RuntimeError("Found no NVIDIA driver on your system.")

experiment = given.get("agent.experiment_name", "cartpole")
root = Path("logs/rsl_rl").absolute() / experiment
print(f"[INFO] Logging experiment in directory: {root}")
run = root / time.strftime("%Y-%m-%d_%H-%M-%S")
start = 0
if arguments.resume:
    [folder] = [path for path in root.iterdir() if re.fullmatch(arguments.load_run, path.name)]
    [file] = [path for path in folder.iterdir() if re.fullmatch(arguments.checkpoint, path.name)]
    start = torch.load(file, weights_only=False)["iter"]
(run / "params").mkdir(parents=True)
(run / "params" / "env.yaml").write_text(f"seed: {arguments.seed}\n")
(run / "params" / "agent.yaml").write_text(f"task: {arguments.task}\nhydra: {hydra}\n")

from torch.utils.tensorboard import SummaryWriter  # noqa: E402  (as late as in the original)

writer = SummaryWriter(str(run))
end, save_interval = start + arguments.max_iterations, int(given.get("agent.save_interval", 50))
for index in range(start, end):
    writer.add_scalar("Train/mean_reward", index / 10, index)
    writer.add_scalar("Policy/mean_noise_std", 1.0, index)  # the tag's name before rsl_rl 4
    print(f"Learning iteration {index}/{end}")
    print(f"Mean reward: {index / 10:.2f}")
    state = {"model_state_dict": {"std": torch.ones(2)}, "optimizer_state_dict": {}, "iter": index, "infos": None}
    if index % save_interval == 0 or index == end - 1:
        torch.save(state, run / f"model_{index}.pt")
    if "agent.crash_at" in given:
        sys.exit(3)
writer.close()
print("Training time: 1.00 seconds")
