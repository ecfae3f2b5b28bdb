"""TFDS datasets by the name of their builder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from rlds_datasets import foreign, simple, simple_steps

from worldmodel.data import load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import DataError

# -------------------------------------------------------------------------------- datasets by name


def by_name(builder: str, data_dir: Path | None = None) -> TFDSData:
    return TFDSData(builder=builder, path=str(data_dir) if data_dir else None)


def test_the_newest_version_is_found_by_the_name(tmp_path):
    for rows, version in enumerate(("1.9.0", "1.10.0", "1.2.0"), start=3):
        foreign(tmp_path, simple_steps(), [simple(rows)], version=version)
    assert load(by_name("foreign", tmp_path)).lengths.tolist() == [4]
    assert load(by_name("foreign:1.9.0", tmp_path)).lengths.tolist() == [3]
    assert load(by_name("foreign:1.2.*", tmp_path)).lengths.tolist() == [5]


def test_the_name_includes_a_config_and_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for rows, config in enumerate(("v0-medium", "v0-expert"), start=3):
        foreign(tmp_path, simple_steps(), [simple(rows)], config=config)
    assert load(by_name("foreign/v0-medium")).lengths.tolist() == [3]
    assert load(by_name("foreign/v0-expert:2.1.0")).lengths.tolist() == [4]
    with pytest.raises(DataError, match=r"foreign/v0-expart is not .*mean 'foreign/v0-expert'\?"):
        load(by_name("foreign/v0-expart"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("d4rl_mujoco_halfchetah/v0-medium", "TFDS has no builder .*'d4rl_mujoco_halfcheetah'"),
        ("d4rl_mujoco_halfcheetah/v0-mediun", "has no config .*mean 'v0-medium'.*and 7 more"),
        ("d4rl_mujoco_halfcheetah", "d4rl_mujoco_halfcheetah needs a config; accepted: v0-expert"),
        ("mnist/large", "mnist has no config 'large'; accepted: the name alone"),
        ("../secrets", "accepted: NAME, NAME/CONFIG or NAME/CONFIG:VERSION"),
    ],
)
def test_unknown_names_are_refused(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        load(by_name(name, tmp_path))


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_without_tensorflow_the_message_explains_how_to_prepare_a_dataset(tmp_path):
    with pytest.raises(DataError) as refusal:
        load(by_name("d4rl_mujoco_halfcheetah/v0-medium", tmp_path))
    message = str(refusal.value)
    assert f"is not prepared below {tmp_path}" in message
    assert 'pip install "worldmodel[tensorflow]"' in message
    assert f"tfds.builder('d4rl_mujoco_halfcheetah/v0-medium', data_dir='{tmp_path}'" in message


def test_a_builder_is_prepared_with_tensorflow(tmp_path):
    pytest.importorskip("tensorflow", reason="preparing a dataset needs TensorFlow")
    import tensorflow_datasets as tfds

    class TwoPoints(tfds.core.GeneratorBasedBuilder):  # registered by TFDS as two_points
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            features = {"steps": tfds.features.Dataset(simple_steps())}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            if not (tmp_path / "source").exists():
                raise OSError("no network")
            yield 0, {"steps": simple(3)}

    with pytest.raises(DataError, match=r"TFDS cannot prepare it \(OSError: .*no network"):
        load(by_name("two_points", tmp_path))
    (tmp_path / "source").touch()
    assert load(by_name("two_points", tmp_path)).lengths.tolist() == [3]
    assert (tmp_path / "two_points" / "1.0.0" / "dataset_info.json").exists()
