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


class Memory(torch.nn.Module):
    """An LSTM or a GRU between them, whose states go in and come out."""

    def __init__(self, observations: int, hidden: int, actions: int, *, lstm: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.rnn = (torch.nn.LSTM if lstm else torch.nn.GRU)(observations, hidden, num_layers=2)
            self.head = torch.nn.Linear(hidden, actions)
        self.lstm = lstm
        self.eval()

    def forward(self, observations: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, after = self.rnn(observations.unsqueeze(0), states if self.lstm else states[0])
        return self.head(out.squeeze(0)), *(after if self.lstm else (after,))


class Look(torch.nn.Module):
    """Sees vectors and images."""

    def __init__(self, observations: int, channels: int, actions: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution = torch.nn.Conv2d(channels, 4, 3, stride=2)
            self.head = torch.nn.LazyLinear(actions)
            self(torch.zeros(1, observations), torch.zeros(1, channels, 8, 8))
        self.eval()

    def forward(self, observations: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        latent = torch.relu(self.convolution(images)).flatten(1)
        return self.head(torch.cat([observations, latent], dim=-1))
