"""The network of the small policy of `exported`: a module of its own, because torch is imported for its class."""

import torch


class Network(torch.nn.Module):
    """Normalizes, clips, has hidden layers, and clips what comes out."""

    def __init__(
        self, mean: tuple[float, ...], divisor: tuple[float, ...], hidden: int, actions: int, shift: float
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("divisor", torch.tensor(divisor))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(len(mean), hidden),
                torch.nn.ELU(),
                torch.nn.Linear(hidden, hidden),
                torch.nn.ELU(),
                torch.nn.Linear(hidden, actions),
            )
        self.shift = shift
        self.eval()

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        normalized = torch.clamp((observations - self.mean) / self.divisor, -5.0, 5.0)
        return torch.clamp(self.layers(normalized), -1.0, 1.0) + self.shift
