"""A training run: its rates, stages and batches; killed and resumed; fine-tuned; shared by several processes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from contourd.errors import DatasetError, DeviceError, ModelError, SettingsError
from contourd.model.anatomynet import AnatomyNet
from contourd.model.bundle import load_bundle
from tests.training import ORGANS, STILL, config, write_case
from trainer.training.config import OptimiserConfig, PatchConfig, find_recipe, load_recipe
from trainer.training.deep_supervision import Supervised, shrunk
from trainer.training.fit import CHECKPOINT, fit, place_in_data
from trainer.training.learning_rate import learning_rate
from trainer.training.losses import DiceCrossEntropy, Loss
from trainer.training.patches import cut_patch
from trainer.training.state import set_up

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[3]
EASY = {
    "optimiser": {"stage": [{"learning_rate": 1e-2, "weight_decay": 1e-2, "warmup": 2}], "ema_decay": 0.9},
    "augment": STILL.model_dump(),
}


def equal(a: AnatomyNet, b: AnatomyNet) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(ka == kb and torch.equal(va, vb) for (ka, va), (kb, vb) in pairs)


def optimiser(*stages) -> OptimiserConfig:
    return OptimiserConfig.model_validate({"stage": stages})


def test_linear_decay():
    one = optimiser({"learning_rate": 2.0, "warmup": 10, "decay": "linear", "decay_over": 20})
    rates = [learning_rate(one, step, 100) for step in (0, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.2, 2.0, 2.0, 2.0, 1.0, 0.1])


def test_cosine_decay_over_all_of_a_stage():
    one = optimiser({"learning_rate": 2.0, "warmup": 20, "decay": "cosine"})
    rates = [learning_rate(one, step, 100) for step in (19, 20, 60, 80, 99)]
    # At a quarter of the 80 steps left cos is -0.707, at the last step nearly nothing is left.
    expected = [2.0, 2.0, 1.0, 1 - math.cos(math.pi / 4), 1 - math.cos(math.pi / 80)]
    assert rates == pytest.approx(expected)


def test_stages_have_their_own_rates():
    """The paper: RMSprop at 0.002, then SGD at 0.001; a stage's warm-up and decay stay inside of it."""
    paper = optimiser(
        {"name": "rmsprop", "learning_rate": 2e-3, "until": 150, "decay": "linear", "decay_over": 50},
        {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.9, "warmup": 10},
    )
    rates = [learning_rate(paper, step, 200) for step in (0, 100, 125, 150, 154, 159, 199)]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 1e-4, 5e-4, 1e-3, 1e-3])
    for ends in ([5], [None, None], [5, 5, None]):
        with pytest.raises(ValidationError, match="every stage"):
            optimiser(*({"until": end} for end in ends))


def test_epochs_become_steps():
    recipe = load_recipe(find_recipe("paper"))
    steps = recipe.in_steps(170)
    assert (steps.schedule.unit, steps.schedule.length, steps.schedule.validate_every) == ("step", 34000, 850)
    assert [stage.until for stage in steps.optimiser.stage] == [25500, None]
    assert steps.in_steps(9) == steps
    pairs = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"batch_size": 4})})
    assert pairs.in_steps(170).schedule.length == 200 * 43


def test_every_epoch_sees_every_case_once():
    first, second = ([place_in_data(7, 5, n) for n in range(start, start + 7)] for start in (0, 7))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_a_resumed_run_equals_an_uninterrupted_one(training_set, tmp_path):
    """Across the change from one optimiser to the other, with deep supervision and patches."""
    more = {
        "optimiser": {"stage": [{"name": "rmsprop", "until": 4}, {"name": "sgd", "momentum": 0.9}]},
        "loss": {"deep_supervision": 0.5},
        "patch": {"size_mm": (60.0, 90.0, 90.0)},
    }
    whole = fit(training_set, tmp_path / "whole", config(7, **more), "cpu")
    fit(training_set, tmp_path / "parts", config(3, **more), "cpu")
    fit(training_set, tmp_path / "parts", config(4, **more), "cpu")
    resumed = fit(training_set, tmp_path / "parts", config(7, **more), "cpu")
    assert resumed.step == whole.step == 7
    assert equal(whole.network, resumed.network)
    assert equal(whole.average, resumed.average)
    losses = [column(tmp_path / f"{name}.run" / "log.csv", "loss") for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
import trainer.training.fit
from tests.training import config
step = trainer.training.fit.train_step
def stepping(state, task):
    if state.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(state, task)
trainer.training.fit.train_step = stepping
trainer.training.fit.fit(Path({training_set!r}), Path({output!r}), config(7), "cpu")
"""


def test_a_killed_run_goes_on(training_set, tmp_path):
    """Killed by SIGKILL before its sixth step, of which the checkpoint at the third knows nothing."""
    script = KILLED.format(root=str(ROOT), training_set=str(training_set), output=str(tmp_path / "killed"))
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()
    resumed = fit(training_set, tmp_path / "killed", config(7), "cpu")
    whole = fit(training_set, tmp_path / "whole", config(7), "cpu")
    assert equal(whole.network, resumed.network)
    assert column(tmp_path / "killed.run" / "log.csv", "step") == [str(n) for n in range(1, 8)]


def test_training_learns_and_writes_the_best_bundle(training_set, tmp_path, capsys):
    state = fit(training_set, tmp_path / "bundle", config(90, **EASY), "cpu")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.model.structures == ORGANS
    assert bundle.config.mirror
    assert state.best > 0.6
    assert bundle.config.provenance["validation_dice"].keys() == set(ORGANS)
    losses = [float(value) for value in column(tmp_path / "bundle.run" / "log.csv", "loss")]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    printed = capsys.readouterr().out
    assert len(re.findall(r"^epoch \d+  step \d+/90  loss", printed, re.M)) == 30
    assert "step 90  validation Dice" in printed
    page = (tmp_path / "bundle.run" / "report.html").read_text()
    assert "3 training cases, 3 of them with every organ annotated" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "Not evaluated through the structure set yet" in (tmp_path / "bundle" / "CARD.md").read_text()


def test_a_checkpoint_of_another_network_is_refused(training_set, tmp_path, capsys):
    fit(training_set, tmp_path / "run", config(1), "cpu")
    for changed in (
        {"model": {"structures": ORGANS, "channels": (4, 4, 4, 4)}},
        {"seed": 3},
        {"loss": {"deep_supervision": 0.3}},
    ):
        with pytest.raises(DatasetError, match=r"was trained with another (model|seed|loss\.deep_supervision):"):
            fit(training_set, tmp_path / "run", config(2, **changed), "cpu")
    fit(training_set, tmp_path / "run", config(2, loss={"missing": "mask"}), "cpu")
    assert "the recipe's loss, schedule changed since" in capsys.readouterr().out
    (tmp_path / "run.run" / CHECKPOINT).write_bytes(b"PK")
    with pytest.raises(DatasetError, match="begin anew"):
        fit(training_set, tmp_path / "run", config(2), "cpu")


def test_a_case_without_a_patient_is_left_out_and_named(training_set, tmp_path, capsys):
    path = training_set / "train" / "pt_1.npz"
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **{**content, "ct": np.zeros_like(content["ct"])})
    for _ in range(2):  # made, and from the cache
        fit(training_set, tmp_path / "run", config(1), "cpu")
        assert re.search(r"^pt_1 is left out: no patient", capsys.readouterr().out, re.M)
    assert load_bundle(tmp_path / "run").config.provenance["left_out"].keys() == {"pt_1"}
    assert "<strong>pt_1</strong>" in (tmp_path / "run.run" / "report.html").read_text()
    for i in (0, 2):
        np.savez(training_set / "train" / f"pt_{i}.npz", **{**content, "ct": np.zeros_like(content["ct"])})
    with pytest.raises(DatasetError, match="none of 3 cases"):
        fit(training_set, tmp_path / "other", config(1), "cpu")


def test_a_changed_case_is_prepared_again(training_set, tmp_path):
    fit(training_set, tmp_path / "run", config(1), "cpu")
    first = load_bundle(tmp_path / "run").config.provenance["annotated"]
    write_case(training_set / "train" / "pt_0.npz", present=("Brainstem",))
    fit(training_set, tmp_path / "run", config(2), "cpu")
    assert first == {"Brainstem": 3, "Parotid_L": 3, "Parotid_R": 3}
    assert load_bundle(tmp_path / "run.run" / "last").config.provenance["annotated"]["Parotid_L"] == 2


def test_fine_tuning_begins_with_another_model_s_weights(training_set, tmp_path):
    fit(training_set, tmp_path / "first", config(2), "cpu")
    first = load_bundle(tmp_path / "first").network()
    fewer = ("Parotid_R", "Larynx", "Brainstem")
    recipe = config(1, initial=str(tmp_path / "first"), preprocess={"spacing_mm": (5.0, 5.0, 5.0)})
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"structures": fewer})})
    begun = set_up(other, torch.device("cpu")).network
    assert torch.equal(begun.stem.weight, first.stem.weight)
    for row, source in ((0, 0), (1, 1 + ORGANS.index("Parotid_R")), (3, 1 + ORGANS.index("Brainstem"))):
        assert torch.equal(begun.classify.weight[row], first.classify.weight[source])
        assert torch.equal(begun.classify.bias[row], first.classify.bias[source])
    assert not any(torch.equal(begun.classify.weight[2], w) for w in first.classify.weight)
    fit(training_set, tmp_path / "second", recipe, "cpu")
    provenance = load_bundle(tmp_path / "second").config.provenance
    assert provenance["initial_sha256"] == load_bundle(tmp_path / "first").sha256
    narrow = recipe.model_copy(update={"model": recipe.model.model_copy(update={"channels": (4, 6, 6, 6)})})
    with pytest.raises(ModelError, match="another channels"):
        set_up(narrow, torch.device("cpu"))


def test_deep_supervision_leaves_nothing_in_the_bundle(training_set, tmp_path):
    recipe = config(1, loss={"deep_supervision": 0.5})
    state = fit(training_set, tmp_path / "run", recipe, "cpu")
    assert len(list(state.supervised.heads.parameters())) == 6
    assert load_bundle(tmp_path / "run").network().state_dict().keys() == state.network.state_dict().keys()


@pytest.mark.parametrize("pools", [1, 2, 3, 4])
def test_deep_supervision_at_every_depth(pools):
    recipe = config(1)
    model = recipe.model.model_copy(update={"pools": pools})
    torch.manual_seed(0)
    supervised = Supervised(AnatomyNet(model), 0.5)
    image = torch.randn(1, 1, 17, 20, 23)
    target = torch.softmax(torch.randn(1, 4, 17, 20, 23), dim=1)
    known, weights = torch.ones(1, 4, dtype=torch.bool), torch.ones(4)
    loss = Loss(DiceCrossEntropy(lambda_=0.1), "marginal")
    value = supervised(image, target, known, weights, loss)
    value.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in supervised.parameters())
    alone = Supervised(supervised.network, 0.0)(image, target, known, weights, loss)
    assert value > alone > 0


def test_a_target_is_averaged_with_what_there_is_at_its_ends():
    target = torch.arange(5.0).reshape(1, 1, 1, 1, 5)
    torch.testing.assert_close(shrunk(target, torch.Size([1, 1, 3])).flatten(), torch.tensor([0.5, 2.5, 4.0]))
    torch.testing.assert_close(shrunk(target, torch.Size([1, 1, 2])).flatten(), torch.tensor([1.5, 4.0]))


def test_patches_hold_organs_or_anything():
    image = torch.zeros(20, 30, 40)
    organs = torch.zeros(2, 20, 30, 40)
    organs[1, 3, 4, 35] = 1
    rng = np.random.default_rng(0)
    around = PatchConfig(size_mm=(16.0, 20.0, 24.0), foreground=1.0)
    for _ in range(5):
        cut, inside = cut_patch(image, organs, (2.0, 2.0, 2.0), around, rng)
        assert cut.shape == (8, 10, 12)
        assert inside.shape == (2, 8, 10, 12)
        assert inside[1].sum() == 1
    anywhere = PatchConfig(size_mm=(16.0, 20.0, 24.0), foreground=0.0)
    found = [cut_patch(image, organs, (2.0, 2.0, 2.0), anywhere, rng)[1].sum().item() for _ in range(40)]
    assert 0 < sum(found) < 20
    larger, _ = cut_patch(image, organs, (2.0, 2.0, 2.0), PatchConfig(size_mm=(60.0, 60.0, 60.0)), rng)
    assert larger.shape == (30, 30, 30)
    assert (larger[20:] == -1).all()
    assert cut_patch(image, organs, (2.0, 2.0, 2.0), PatchConfig(), rng)[0] is image


def test_bf16_trains_and_fp16_is_refused_on_the_cpu(training_set, tmp_path):
    state = fit(training_set, tmp_path / "bf16", config(2, compute={"precision": "bf16"}), "cpu")
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in state.network.parameters())
    with pytest.raises(DeviceError, match="fp16"):
        fit(training_set, tmp_path / "fp16", config(2, compute={"precision": "fp16"}), "cpu")


def test_a_recipe_is_found_by_name():
    assert {find_recipe(name).stem for name in ("hn7", "paper", "quick")} == {"hn7", "paper", "quick"}
    with pytest.raises(SettingsError, match=r"no such recipe.*hn7, paper, quick"):
        find_recipe("nothing")


TOGETHER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.training import config
from trainer.training.fit import fit
fit(Path(sys.argv[1]), Path(sys.argv[2]), config(4, schedule={"length": 4, "batch_size": 2}), "cpu")
"""


def test_two_processes_equal_one_with_the_same_batch(training_set, tmp_path):
    """By torchrun with gloo on loopback: the same losses and weights as one process that sees the whole batch."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [sys.executable, *launch, str(script), str(training_set), str(tmp_path / "two")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("step 4  validation Dice") == 1  # one of them writes
    one = fit(training_set, tmp_path / "one", config(4, schedule={"length": 4, "batch_size": 2}), "cpu")
    losses = [[float(v) for v in column(tmp_path / f"{n}.run" / "log.csv", "loss")] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    two = torch.load(tmp_path / "two.run" / CHECKPOINT, weights_only=True)["supervised"]
    for key, value in one.supervised.state_dict().items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)


def test_the_loss_of_a_first_step_is_what_it_was(training_set, tmp_path):
    """Fixed seed, fixed loss: a change of the network, the augmentation or the loss that nobody meant shows here."""
    fit(training_set, tmp_path / "run", config(2), "cpu")
    losses = [float(v) for v in column(tmp_path / "run.run" / "log.csv", "loss")]
    assert losses == pytest.approx(FIRST_LOSSES, rel=1e-4)
    assert json.loads((tmp_path / "run" / "model.json").read_text())["provenance"]["cases"] == 3


FIRST_LOSSES = [4.4869733, 4.4603882]
