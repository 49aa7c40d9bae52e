"""PPO on simyard's rollouts: one update a call, of a policy of rsl_rl 5 that sees one vector and acts by a Gaussian.

The rollouts must be drawn from the policy that `--checkpoint-in-uri` names (`control.sample` true): the ratio is taken
to their `data/log_prob`. Without a checkpoint the network is made, and the value function alone is fitted. What is
left is a checkpoint as rsl_rl writes it, the optimiser's state included, so that the next rollouts can load it.

It works on the GPU where the call has one, and else on as many threads as `OMP_NUM_THREADS` says, which is what
`resources.cpu` asks for.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.optim.adam import adam

NUMBERS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
"""Of Adam, as torch and rsl_rl have them."""
TERMINATED = 1
"""Of `meta/termination`: there is nothing after such an episode. The others would have gone on."""


@dataclass(frozen=True)
class Rollouts:
    """Rows of all episodes, one episode after another."""

    observations: Tensor
    """`(rows, observations)`."""
    actions: Tensor
    """`(rows, actions)`."""
    rewards: Tensor
    """`(rows,)`."""
    log_prob: Tensor | None
    """`(rows,)`, of the actions under the policy that drew them; None where none did."""
    ends: Tensor
    """`(episodes,)`: the row behind each episode's last."""
    terminated: Tensor
    """`(episodes,)`: whether each ended in a state that ends it, rather than by time."""

    @property
    def lengths(self) -> Tensor:
        """The number of rows of each episode."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def mean_return(self) -> float:
        """Return the mean over the episodes of their sums of rewards."""
        return self.rewards.double().sum().item() / len(self.ends)

    def to(self, device: torch.device) -> "Rollouts":
        """Return the same on a device."""
        fields = {name: None if value is None else value.to(device) for name, value in vars(self).items()}
        return Rollouts(**fields)


class Actor(nn.Module):
    """A Gaussian whose deviation does not depend on the state. Names and their order are those of rsl_rl."""

    def __init__(self, sizes: list[int], activation: type[nn.Module], std: float) -> None:
        super().__init__()
        self.distribution = nn.ParameterDict({"std_param": nn.Parameter(torch.full((sizes[-1],), std))})
        self.mlp = layers(sizes, activation)

    def forward(self, observations: Tensor) -> torch.distributions.Normal:
        # Its check of arguments would wait for the GPU in every step; what diverges is seen in the metrics.
        return torch.distributions.Normal(self.mlp(observations), self.std, validate_args=False)

    @property
    def std(self) -> Tensor:
        return self.distribution["std_param"].clamp(min=1e-6)


class Critic(nn.Module):
    """The value of a state."""

    def __init__(self, sizes: list[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.mlp = layers(sizes, activation)

    def forward(self, observations: Tensor) -> Tensor:
        return self.mlp(observations).squeeze(-1)


class Adam:
    """Torch's own Adam, with its state laid out as `torch.optim.Adam` and rsl_rl lay it out.

    That class imports torch's compiler when it is made, which takes longer than a whole update on a GPU.
    """

    def __init__(self, parts: list[nn.Module], learning_rate: float) -> None:
        self.parameters = [parameter for part in parts for parameter in part.parameters()]
        self.learning_rate = learning_rate
        self.state: dict[int, dict[str, Tensor]] = {}

    def step(self) -> None:
        """Take a step for the parameters that have a gradient."""
        indices = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters = [self.parameters[index] for index in indices]
        for index, parameter in zip(indices, parameters, strict=True):
            if index not in self.state:
                names = ("exp_avg", "exp_avg_sq")
                self.state[index] = {"step": torch.zeros(()), **{name: torch.zeros_like(parameter) for name in names}}
        state = [self.state[index] for index in indices]
        means, squares, steps = ([each[name] for each in state] for name in ("exp_avg", "exp_avg_sq", "step"))
        with torch.no_grad():
            adam(
                parameters, [parameter.grad for parameter in parameters], means, squares, [], steps,
                amsgrad=False, maximize=False, weight_decay=0.0, lr=self.learning_rate, **NUMBERS,
            )  # fmt: skip

    def state_dict(self) -> dict:
        """Return what `torch.optim.Adam` would return."""
        group = {
            "lr": self.learning_rate, "betas": (NUMBERS["beta1"], NUMBERS["beta2"]), "eps": NUMBERS["eps"],
            "weight_decay": 0, "amsgrad": False, "maximize": False, "foreach": None, "capturable": False,
            "differentiable": False, "fused": None, "decoupled_weight_decay": False,
            "params": list(range(len(self.parameters))),
        }  # fmt: skip
        return {"state": self.state, "param_groups": [group]}

    def load_state_dict(self, saved: dict) -> None:
        """Go on from a state; steps are counted on the CPU, as there."""
        for index, state in saved["state"].items():
            device = self.parameters[index].device
            self.state[index] = {name: value.to("cpu" if name == "step" else device) for name, value in state.items()}


def layers(sizes: list[int], activation: type[nn.Module]) -> nn.Sequential:
    found: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        found += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*found[:-1])


def main(arguments: list[str] | None = None) -> None:
    began = time.monotonic()
    options = parse(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    rollouts = read(options.dataset_manifest_path, options.observations).to(device)
    parent = load(path_of(options.checkpoint_in_uri)) if options.checkpoint_in_uri else None
    actor, critic, optimizer = build(parent, rollouts, options)
    metrics = {
        "episodes": len(rollouts.ends),
        "mean_return": rollouts.mean_return(),
        "mean_episode_length": rollouts.lengths.double().mean().item(),
    }
    metrics |= fit_critic(critic, optimizer, rollouts, options)
    if parent is not None:
        metrics |= improve_actor(actor, critic, optimizer, rollouts, options)
    metrics |= {
        "entropy": actor(rollouts.observations[:1]).entropy().sum().item(),
        "std": actor.std.mean().item(),
        "learning_rate": optimizer.learning_rate,
        "seconds": time.monotonic() - began,
    }
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        sys.exit(f"The update diverged: {', '.join(bad)} is not finite. Try a lower --learning-rate.")
    state = {
        "actor_state_dict": on_cpu(actor.state_dict()),
        "critic_state_dict": on_cpu(critic.state_dict()),
        "optimizer_state_dict": on_cpu(optimizer.state_dict()),
        "iter": parent["iter"] + 1 if parent else 1,
        "infos": None,
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write(options.output_dir / "checkpoint.pt", lambda path: torch.save(state, path))
    write(options.output_dir / "metrics.json", lambda path: path.write_text(json.dumps(metrics, indent=2)))
    print(" ".join(f"{name}={value:.5g}" for name, value in metrics.items()), flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--dataset-manifest-path", type=Path, required=True)
    add("--output-dir", type=Path, required=True)
    add("--checkpoint-in-uri", default="", help="file:///...; empty in the first iteration")
    add("--seed", type=int, default=0)
    add("--observations", default="obs/policy", help="the array that the policy sees")
    add("--hidden-dims", type=int, nargs="+", default=[32, 32], help="of a new network, as the task's agent has them")
    add("--activation", default="ELU", help="a class of torch.nn; a checkpoint does not name it")
    add("--init-std", type=float, default=1.0, help="of a new network")
    add("--gamma", type=float, default=0.99)
    add("--lam", type=float, default=0.98)
    add("--clip", type=float, default=0.3)
    add("--learning-rate", type=float, default=5e-3)
    add("--value-epochs", type=int, default=15, help="passes over the rollouts for the value function")
    add("--epochs", type=int, default=20, help="passes for the policy, at most")
    add("--minibatch", type=int, default=2048, help="rows, or more where a pass would have too many of them")
    add("--minibatches", type=int, default=32, help="of a pass, at most: more environments make them larger")
    add("--target-kl", type=float, default=0.1, help="of the policy from what it was; passes end there")
    add("--entropy-coef", type=float, default=0.0)
    add("--max-grad-norm", type=float, default=1.0)
    return parser.parse_args(arguments)


def read(manifest_path: Path, observations: str) -> Rollouts:
    """Read the rollouts that a manifest names, from the files beside it."""
    manifest = json.loads(manifest_path.read_text())
    arrays: dict[str, list[np.ndarray]] = {}
    ends: list[int] = []
    for rollout in manifest["rollouts"]:
        path = manifest_path.parent / rollout["path"]
        with path.open("rb") as file:
            if (found := hashlib.file_digest(file, "sha256").hexdigest()) != rollout["sha256"]:
                sys.exit(f"{rollout['path']} has sha256 {found}, not {rollout['sha256']} as the manifest says.")
        with zarr.storage.ZipStore(path, mode="r") as store:
            root = zarr.open_group(store, mode="r")
            for name in (f"data/{observations}", "data/action", "data/reward", "meta/termination"):
                if name not in root:
                    sys.exit(f"{rollout['path']} has no array {name!r}, which this trainer reads.")
                arrays.setdefault(name, []).append(np.asarray(root[name][:]))
            if "data/log_prob" in root:
                arrays.setdefault("log_prob", []).append(np.asarray(root["data/log_prob"][:]))
            before = ends[-1] if ends else 0
            ends += (before + np.asarray(root["meta/episode_ends"][:])).tolist()
    if not ends:
        sys.exit(f"The {len(manifest['rollouts'])} rollouts of the manifest hold no episode.")
    drawn = arrays.pop("log_prob", [])
    if drawn and len(drawn) < len(manifest["rollouts"]):
        sys.exit(f"Only {len(drawn)} of {len(manifest['rollouts'])} rollouts have data/log_prob. Sample all, or none.")
    seen, actions, rewards, termination = (np.concatenate(parts) for parts in arrays.values())
    return Rollouts(
        observations=torch.from_numpy(seen).float(),
        actions=torch.from_numpy(actions).float(),
        rewards=torch.from_numpy(rewards).float(),
        log_prob=torch.from_numpy(np.concatenate(drawn)) if drawn else None,
        ends=torch.tensor(ends),
        terminated=torch.from_numpy(termination == TERMINATED),
    )


def load(path: Path) -> dict:
    """Load a checkpoint of rsl_rl without running anything that is in it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    actor = state.get("actor_state_dict", {})
    other = [name for name in actor if not name.startswith("mlp.") and name != "distribution.std_param"]
    if other or "distribution.std_param" not in actor:
        what = f"an actor with {other[0]!r}" if other else "no actor with 'distribution.std_param'"
        sys.exit(f"{path.name} has {what}. Allowed: rsl_rl's MLP without normaliser, with std_type 'scalar'.")
    return state


def build(parent: dict | None, rollouts: Rollouts, options: argparse.Namespace) -> tuple[Actor, Critic, Adam]:
    """Make the network and its optimiser: those of the checkpoint, or new ones as rsl_rl makes them."""
    activation = getattr(nn, options.activation)
    inputs, outputs = rollouts.observations.shape[1], rollouts.actions.shape[1]
    if parent is None:
        actor = Actor([inputs, *options.hidden_dims, outputs], activation, options.init_std)
        critic = Critic([inputs, *options.hidden_dims, 1], activation)
    else:
        if rollouts.log_prob is None:
            sys.exit("The rollouts have no data/log_prob. Set control.sample to true in the template.")
        actor = Actor(sizes(parent["actor_state_dict"]), activation, options.init_std)
        critic = Critic(sizes(parent["critic_state_dict"]), activation)
        actor.load_state_dict(parent["actor_state_dict"])
        critic.load_state_dict(parent["critic_state_dict"])
    actor.to(rollouts.rewards.device)
    critic.to(rollouts.rewards.device)
    optimizer = Adam([actor, critic], options.learning_rate)
    if parent is not None:
        optimizer.load_state_dict(parent["optimizer_state_dict"])
    return actor, critic, optimizer


def sizes(state: dict[str, Tensor]) -> list[int]:
    """Return the sizes of a network's layers, from its inputs to its outputs."""
    weights = [value for name, value in state.items() if name.endswith(".weight")]
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


def fit_critic(critic: Critic, optimizer: Adam, rollouts: Rollouts, options: argparse.Namespace) -> dict[str, float]:
    """Fit the value function to the returns; what they are estimated to be follows it, pass by pass."""
    losses: list[Tensor] = []
    for _ in range(options.value_epochs):
        _, target = estimate(critic, rollouts, options.gamma, options.lam)
        losses = []
        for rows in minibatches(target, options):
            loss = (critic(rollouts.observations[rows]) - target[rows]).square().mean()
            step(optimizer, loss, critic, options.max_grad_norm)
            losses.append(loss.detach())
    return {"value_loss": torch.stack(losses).double().mean().item()}


def improve_actor(
    actor: Actor, critic: Critic, optimizer: Adam, rollouts: Rollouts, options: argparse.Namespace
) -> dict[str, float]:
    """Make the actions that did better than expected more likely, until the policy is far enough from what it was."""
    advantage, _ = estimate(critic, rollouts, options.gamma, options.lam)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    losses, kl = [torch.zeros(1)], 0.0
    for _ in range(options.epochs):
        losses = []
        for rows in minibatches(advantage, options):
            loss = -surrogate(actor, rollouts, rows, advantage, options.clip)
            step(optimizer, loss - options.entropy_coef * actor.std.log().sum(), actor, options.max_grad_norm)
            losses.append(loss.detach())
        if (kl := divergence(actor, rollouts)) > options.target_kl:
            break
    return {"policy_loss": torch.stack(losses).double().mean().item(), "kl": kl}


def minibatches(values: Tensor, options: argparse.Namespace) -> tuple[Tensor, ...]:
    """Deal the rows out at random."""
    rows = max(options.minibatch, math.ceil(len(values) / options.minibatches))
    return torch.randperm(len(values), device=values.device).split(rows)


def step(optimizer: Adam, loss: Tensor, part: nn.Module, max_grad_norm: float) -> None:
    """Take one step for one of the networks; the other has no gradient, and stays."""
    for parameter in optimizer.parameters:
        parameter.grad = None
    loss.backward()
    nn.utils.clip_grad_norm_(part.parameters(), max_grad_norm)
    optimizer.step()


def estimate(critic: Critic, rollouts: Rollouts, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return the advantage of every action, and the value of every state that it implies.

    The state after an episode's last action is not recorded. Where the episode would have gone on, the value of the
    state before that action stands for it, as in rsl_rl.
    """
    with torch.no_grad():
        values = critic(rollouts.observations)
    advantage = gae(rollouts, values, gamma, lam)
    return advantage, advantage + values


def gae(rollouts: Rollouts, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Return the generalised advantage estimate of every row.

    That is a sum over the rows behind it in its episode. All rows take the sums of 1, 2, 4 … rows further on in turn:
    as many rounds as the longest episode has bits, instead of one a row.

    Args:
        rollouts: The rewards, and how the episodes lie.
        values: Of the state before each row's action.
        gamma: Discount of a step.
        lam: Weight of longer estimates.
    """
    rewards, values, lengths = rollouts.rewards.double(), values.double(), rollouts.lengths
    behind = rollouts.ends.repeat_interleave(lengths) - 1 - torch.arange(len(values), device=values.device)
    after = torch.where(rollouts.terminated.repeat_interleave(lengths), 0.0, values)
    found = rewards + gamma * torch.where(behind > 0, values.roll(-1), after) - values
    reach = 1
    while reach < int(lengths.max()):
        further = (gamma * lam) ** reach * found.roll(-reach)
        found = found + torch.where(behind >= reach, further, 0.0)
        reach *= 2
    return found.float()


def surrogate(actor: Actor, rollouts: Rollouts, rows: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return what PPO maximises: the advantage, by the ratio to the policy that drew the actions, which is clipped."""
    now = actor(rollouts.observations[rows]).log_prob(rollouts.actions[rows]).sum(-1)
    ratio = (now - rollouts.log_prob[rows]).exp()
    return torch.min(advantage[rows] * ratio, advantage[rows] * ratio.clamp(1 - clip, 1 + clip)).mean()


def divergence(actor: Actor, rollouts: Rollouts) -> float:
    """Estimate how far the policy is from the one that drew the actions: never negative, with little variance."""
    with torch.no_grad():
        change = actor(rollouts.observations).log_prob(rollouts.actions).sum(-1) - rollouts.log_prob
    return (change.exp() - 1 - change).mean().item()


def path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        sys.exit(f"--checkpoint-in-uri is {uri!r}. Allowed: file:///..., or a path.")
    return Path(unquote(parts.path) if parts.scheme else uri)


def on_cpu(state):
    """Return a state whose tensors any machine can load."""
    if isinstance(state, dict):
        return {name: on_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state


def write(path: Path, save) -> None:
    beside = path.with_name(f".{path.name}.partial")
    save(beside)
    os.replace(beside, path)


if __name__ == "__main__":
    main()
