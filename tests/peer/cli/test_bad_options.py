"""Wrong options, files and variables: one line that says what is wrong and whence it came, exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

LONG_NAME = "x" * 65

OPTIONS = {
    "unknown command": (["tarin"], "did you mean 'train'?"),
    "unknown option": (["train", "--modle", "cnn"], "did you mean '--model'?"),
    "missing option": (["peer", "digits"], "missing option '--rank'"),
    "missing argument": (["resume"], "missing argument 'run'"),
    "unknown choice": (["train", "--optimizer", "lbfgs"], "'adamw', 'sgd'"),
    "unknown loss": (["train", "--loss", "hinge"], "'cross_entropy'"),
    "batch 0": (["train", "--batch-size", "0"], "'--batch-size': 0 is not in the range x>=1"),
    "batch text": (["train", "--batch-size", "many"], "'many' is not a valid whole number"),
    "batch fraction": (["train", "--batch-size", "16.5"], "'16.5' is not a valid whole number"),
    "no peers": (["train", "--peers", "0"], "--peers"),
    "negative seed": (["train", "--seed", "-1"], "--seed"),
    "enormous seed": (["train", "--seed", str(1 << 63)], "--seed"),
    "rate NaN": (["train", "--learning-rate", "nan"], "'nan' is not a finite number"),
    "rate 0": (["train", "--learning-rate", "0"], "--learning-rate"),
    "epochs infinite": (["train", "--epochs", "inf"], "--epochs"),
    "timeout of years": (["train", "--invocation-timeout", "1e9"], "--invocation-timeout"),
    "apart, and reduced": (["train", "--staleness", "2", "--exchange", "scatter_reduce"], "take all_gather"),
    "far apart": (["train", "--staleness", "1000"], "--staleness"),
    "steps and batches": (["train", "--local-steps", "8", "--batches-per-round", "12"], "a multiple of them"),
    "steps and packing": (
        ["train", "--local-steps", "8", "--batches-per-invocation", "2"],
        "an invocation takes a step a batch",
    ),
    "outer momentum 1": (["train", "--local-steps", "8", "--outer-momentum", "1"], "--outer-momentum"),
    "memory no size": (["train", "--largest-memory", "much"], "'much' is no amount of memory"),
    "memory held": (["train", "--largest-memory", "2Gi", "--no-adapt"], "--largest-memory raises limits"),
    "memory of nobody": (
        ["train", "--largest-memory", "2Gi", "--compute", "local"],
        "--largest-memory raises",
    ),
    "batches 0": (["train", "--batches-per-round", "0"], "neither a whole number above 0 nor 'all'"),
    "packing word": (["train", "--batches-per-invocation", "all"], "nor 'auto'"),
    "epochs and rounds": (["train", "--epochs", "1", "--rounds", "3"], "--epochs and --rounds"),
    "codec unknown": (["train", "--compression", "gzip"], "codec 'gzip' is not known: it is none, fp16"),
    "codec of 9 bits": (["train", "--compression", "qsgd:9"], "qsgd:bits (2 to 8)"),
    "codec with memory": (
        ["train", "--function-compression", "topk:0.1"],
        "functions keep nothing: take fp16",
    ),
    "codec of nothing": (["train", "--compression", "topk:0"], "topk:ratio (above 0, at most 1)"),
    "early stop blind": (["train", "--early-stop", "3", "--evaluate-every", "0"], "--evaluate-every"),
    "arguments no YAML": (["train", "--model-arguments", "{input_size: 20"], "is not YAML"),
    "arguments a list": (["train", "--model-arguments", "[1]"], "no mapping"),
    "arguments numbered": (["train", "--model-arguments", "{1: 2}"], "no mapping"),
    "arguments binary": (["train", "--model-arguments", "{a: !!set {1}}"], "json cannot"),
    "batch sizes text": (["experiment", "memory", "--batch-sizes", "64,many"], "whole numbers above 0"),
    "batch sizes 0": (["experiment", "memory", "--batch-sizes", "0"], "--batch-sizes is '0'"),
    "limit no size": (["experiment", "memory", "--largest-limit", "much"], "--largest-limit: 'much' is no"),
    "limit of bytes": (["experiment", "memory", "--largest-limit", "1000000"], "take whole mib"),
    "resolution above": (["experiment", "memory", "--resolution", "2Gi"], "--resolution 2gi is not below"),
    "experiment unknown": (["experiment", "memroy"], "did you mean 'memory'"),
    "experiment nowhere": (["experiment", "memory"], "no gateway: start one with `peerless up`"),
    "run climbs": (["train", "--run", "../x"], "run '../x' is not usable"),
    "run with space": (["train", "--run", "a b"], "run 'a b' is not usable"),
    "run with newline": (["train", "--run", "a\nb"], "run 'a\\nb' is not usable"),
    "run empty": (["train", "--run", ""], "run '' is not usable"),
    "run dots": (["resume", ".."], "run '..' is not usable"),
    "run like an option": (["train", "--run", "-x"], "run '-x' begins with '-'"),
    "run hidden": (["peer", ".x", "--rank", "0"], "run '.x' begins with '.'"),
    "run long": (["runs", "remove", LONG_NAME], "take 1 to 64"),
    "dataset climbs": (["train", "--dataset", "../../etc"], "dataset '../../etc' is not usable"),
    "dataset shown climbs": (["data", "show", "../x"], "dataset '../x' is not usable"),
    "bucket": (["data", "list", "--bucket", "A b"], "'a b' is no bucket"),
    "data folder missing": (["data", "push", "mnist", "--data-dir", "/no/such/folder"], "does not exist"),
    "port 0": (["up", "--gateway-port", "0"], "--gateway-port"),
    "replicas": (["up", "--replicas", "101"], "--replicas"),
    "stack missing": (["up", "--stack", "/no/such/stack.yml"], "there is no file /no/such/stack.yml"),
    "store not started": (["data", "list"], "start one with `peerless up`"),
    "store half given": (["data", "list", "--store", "http://127.0.0.1:9"], "needs --store-access-key"),
    "key without store": (["data", "list", "--store-access-key", "me"], "is given without --store"),
    "key file missing": (
        ["data", "list", "--store", "http://127.0.0.1:9", "--store-secret-key-file", "/no/such/key"],
        "--store-secret-key-file /no/such/key cannot be read",
    ),
}


@pytest.mark.parametrize(("arguments", "expected"), OPTIONS.values(), ids=OPTIONS.keys())
def test_command_with_wrong_option_says_which_in_one_line(peerless, arguments, expected):
    outcome = peerless(*arguments)

    assert outcome.code == 2
    assert expected in outcome.said.lower() or expected in outcome.said


FILES = {
    "unknown key": ("batchsize: 4", "'batchsize', which is no option (did you mean batch-size?)"),
    "number as key": ("1: 2", "'1', which is no option"),
    "the file itself": ("config: other.yml", "'config', which is no option"),
    "text for a number": ("peers: many", "'many' is not a valid whole number (from the --config file)"),
    "fraction": ("batch-size: 16.5", "'16.5' is not a valid whole number"),
    "list": ("peers: [1, 2]", "peers is a list"),
    "nothing": ("peers:", "peers is nothing"),
    "date": ("store: 2026-01-01", "store is a date"),
    "no boolean": ("keep-objects: perhaps", "'perhaps' is not a valid boolean"),
    "no mapping": ("- peers", "holds a list"),
    "no YAML": ("peers: [1", "is not YAML"),
    "an object": ('peers: !!python/object/apply:os.system ["touch hacked"]', "is not YAML"),
}


@pytest.mark.parametrize(("text", "expected"), FILES.values(), ids=FILES.keys())
def test_config_file_with_mistake_is_named(peerless, tmp_path, text, expected):
    (tmp_path / "run.yml").write_text(text)

    outcome = peerless("train", "--config", "run.yml")

    assert outcome.code == 2
    assert expected in outcome.said
    assert not (tmp_path / "hacked").exists()


def test_config_file_that_is_no_text_or_not_there_is_named(peerless, tmp_path):
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")

    binary = peerless("train", "--config", "binary.yml")
    missing = peerless("train", "--config", "missing.yml")

    assert (binary.code, missing.code) == (2, 2)
    assert "--config binary.yml is not YAML" in binary.said
    assert "--config missing.yml cannot be read: No such file" in missing.said


def test_unknown_variable_is_refused_by_every_command(peerless, monkeypatch):
    monkeypatch.setenv("PEERLESS_BATCHSIZE", "4")

    outcome = peerless("status")

    assert outcome.code == 2
    assert "PEERLESS_BATCHSIZE (did you mean PEERLESS_BATCH_SIZE?)" in outcome.said


def test_variable_with_mistake_is_named(peerless, monkeypatch):
    monkeypatch.setenv("PEERLESS_PEERS", "many")

    outcome = peerless("train")

    assert outcome.code == 2
    assert "(from the environment variable PEERLESS_PEERS)" in outcome.said


def test_installed_command_with_wrong_option_has_exit_code_and_no_traceback(tmp_path):
    program = Path(sys.executable).with_name("peerless")

    command = [program, "train", "--batch-size", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("peerless: ") and done.stderr.count("\n") == 1
