"""Reads converted rollouts with the libraries that they are for, in an environment that has those and nothing of ours.

    python foreign_loaders.py FUNCTION FOLDER

FOLDER has the converted rollout and `truth.npz`, the recorded arrays. The last line that is printed is JSON.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

EPOCH_BATCH = 32


def lerobot(folder: Path) -> dict[str, Any]:
    """Load the dataset, train ACT on it for an epoch, and have LeRobot's own tools change it."""
    import torch
    from lerobot.configs.types import FeatureType
    from lerobot.datasets.compute_stats import get_feature_stats
    from lerobot.datasets.dataset_tools import delete_episodes
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features

    truth = np.load(folder / "truth.npz")
    ends = truth["episode_ends"].tolist()
    found: dict[str, Any] = {}

    # Rows and pictures, by both decoders.
    for backend in ("torchcodec", "pyav"):
        try:
            dataset = LeRobotDataset("local/rollout", root=folder / "dataset", video_backend=backend)
            differences = []
            for index in (0, 1, ends[0] - 1, ends[0], len(dataset) - 1):
                item = dataset[index]
                picture = truth["wrist"][index].transpose(2, 0, 1) / 255
                differences.append(float(np.abs(item["observation.images.wrist"].numpy() - picture).mean() * 255))
                assert np.array_equal(item["action"].numpy(), truth["action"][index])
                assert np.array_equal(item["observation.state"].numpy(), truth["joint_position"][index])
        except (ImportError, RuntimeError) as error:  # torchcodec wants ffmpeg's libraries of the machine
            found[backend] = str(error).strip().splitlines()[0]
        else:
            found[backend] = max(differences)
    found |= {"episodes": dataset.num_episodes, "frames": len(dataset), "task": dataset[0]["task"], "fps": dataset.fps}
    found["names"] = dataset.meta.features["observation.state"]["names"]

    # An episode's statistics as LeRobot computes them, from its histograms of 5,000 bins.
    from datasets import Dataset

    rows = Dataset.from_parquet(str(folder / "dataset/meta/episodes/chunk-000/file-000.parquet"))
    first = truth["action"][: ends[0]]
    theirs = get_feature_stats(first, axis=0, keepdims=False)
    span = np.ptp(first, axis=0).max()
    found["statistics"] = {
        name: float(np.abs(np.array(rows[0][f"stats/action/{name}"]) - value).max() / span)
        for name, value in theirs.items()
    }
    chosen = LeRobotDataset("local/rollout", root=folder / "dataset", episode_filter=lambda row: row["success"] == 1)
    found["successful"] = chosen.num_episodes

    # An epoch.
    features = dataset_to_policy_features(dataset.meta.features)
    outputs = {name: each for name, each in features.items() if each.type is FeatureType.ACTION}
    inputs = {name: each for name, each in features.items() if name not in outputs}
    config = ACTConfig(
        input_features=inputs, output_features=outputs, chunk_size=8, n_action_steps=8, dim_model=64, n_heads=2,
        dim_feedforward=64, n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=8,
        pretrained_backbone_weights=None, device="cpu",
    )  # fmt: skip
    later = {"action": [step / dataset.fps for step in range(8)]}
    training = LeRobotDataset("local/rollout", root=folder / "dataset", delta_timestamps=later, video_backend="pyav")
    policy = ACTPolicy(config)
    prepare, _ = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    losses = []
    for batch in torch.utils.data.DataLoader(training, batch_size=EPOCH_BATCH, shuffle=True):
        loss, _ = policy.forward(prepare(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found["losses"] = losses

    # Its tools read, cut and write what is there.
    left = delete_episodes(dataset, episode_indices=[0], output_dir=folder / "left", repo_id="local/left")
    found["left"] = [left.num_episodes, len(LeRobotDataset("local/left", root=folder / "left", video_backend="pyav"))]
    return found


def robomimic(folder: Path) -> dict[str, Any]:
    """Load the file with robomimic's dataset, and train an imitation and an offline algorithm for an epoch each."""
    import robomimic.utils.file_utils as file_utils
    import robomimic.utils.obs_utils as obs_utils
    import robomimic.utils.train_utils as train_utils
    import torch
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory

    found: dict[str, Any] = {"environment": file_utils.get_env_metadata_from_dataset(str(folder / "demos.hdf5"))}
    cases = {
        "bc": ("demos.hdf5", ["joint_position", "joint_velocity"], "successful"),
        "td3_bc": ("valued.hdf5", ["policy"], None),
    }
    for name, (file, observations, chosen) in cases.items():
        config, path = config_factory(name), str(folder / file)
        with config.values_unlocked():
            config.train.data, config.train.batch_size, config.train.hdf5_cache_mode = path, EPOCH_BATCH, "low_dim"
            config.train.hdf5_normalize_obs, config.train.hdf5_filter_key = False, chosen
            config.observation.modalities.obs.low_dim = observations
            config.observation.modalities.obs.rgb = []
        obs_utils.initialize_obs_utils_with_config(config)
        shapes = file_utils.get_shape_metadata_from_dataset(path, all_obs_keys=config.all_obs_keys)
        dataset, _ = train_utils.load_data_for_training(config, obs_keys=shapes["all_obs_keys"])
        loader = torch.utils.data.DataLoader(dataset, batch_size=EPOCH_BATCH, shuffle=True, drop_last=True)
        model = algo_factory(name, config, shapes["all_shapes"], shapes["ac_dim"], torch.device("cpu"))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Using a target size")  # of shapes that do not fit
            log = train_utils.run_epoch(model, loader, epoch=1)
        found[name] = {"sequences": len(dataset), "loss": {key: log[key] for key in log if "Loss" in key}}
        found[name]["keys"] = sorted(dataset[0])
    return found


def diffusion_policy(folder: Path) -> dict[str, Any]:
    """Sample sequences with diffusion_policy's own buffer and sampler; train a small network on them for an epoch."""
    import torch
    from diffusion_policy.common.replay_buffer import ReplayBuffer
    from diffusion_policy.common.sampler import SequenceSampler
    from diffusion_policy.model.common.normalizer import LinearNormalizer

    truth = np.load(folder / "truth.npz")
    buffer = ReplayBuffer.copy_from_path(str(folder / "buffer"), keys=["joint_position", "action", "images_wrist"])
    assert np.array_equal(buffer["images_wrist"], truth["wrist"])
    sampler = SequenceSampler(buffer, sequence_length=8, pad_before=1, pad_after=7)
    normalizer = LinearNormalizer()
    normalizer.fit({name: buffer[name] for name in ("joint_position", "action")}, last_n_dims=1, mode="limits")
    sizes = buffer["joint_position"].shape[1], 8 * buffer["action"].shape[1]
    network = torch.nn.Sequential(torch.nn.Linear(sizes[0], 64), torch.nn.ReLU(), torch.nn.Linear(64, sizes[1]))
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-3), []
    for index in np.random.default_rng(0).permutation(len(sampler)):
        sample = sampler.sample_sequence(index)
        batch = normalizer.normalize({name: torch.from_numpy(sample[name]) for name in ("joint_position", "action")})
        loss = ((network(batch["joint_position"][0]) - batch["action"].reshape(-1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"episodes": buffer.n_episodes, "steps": int(buffer.n_steps), "losses": losses}


def xarray(folder: Path) -> dict[str, Any]:
    """Open the rollout itself, a folder and one file."""
    import xarray
    import zarr

    truth = np.load(folder / "truth.npz")
    for store in (str(folder / "rollout"), zarr.storage.ZipStore(folder / "rollout.zarr", mode="r")):
        tree = xarray.open_datatree(store, engine="zarr", consolidated=False)
        data = xarray.open_zarr(store, group="data", consolidated=False)
        assert np.array_equal(tree["data/images/wrist"].values, truth["wrist"])
        assert np.array_equal(data["action"].isel(step=slice(3, 9)).values, truth["action"][3:9])
        found = {
            "dimensions": {name: list(each.dims) for name, each in data.data_vars.items()},
            "meta": {name: list(each.dims) for name, each in tree["meta"].data_vars.items()},
            "names": list(data["action"].attrs["names"]),
            "period": tree.attrs["control_period_s"],
        }
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2])), default=float))
