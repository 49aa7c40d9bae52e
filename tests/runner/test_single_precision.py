"""The precision in which a policy acts while its export is checked against it."""

import pytest
from lazy import lazy

from simyard.runner.rl.inference import single_precision

torch = lazy("torch")


def settings():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


def test_nothing_is_rounded_meanwhile_and_the_settings_come_back():
    before = settings()
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        with pytest.raises(ZeroDivisionError), single_precision():
            assert settings() == (False, "highest")
            raise ZeroDivisionError
        assert settings() == (True, "high")
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def test_a_gpu_sees_images_as_a_processor_does():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, 4), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 4, 2))
    images = torch.rand(16, 3, 80, 80)
    with torch.no_grad():
        wanted = layers(images)
        with single_precision():
            seen = layers.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-5)
