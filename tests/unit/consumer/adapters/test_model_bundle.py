import hashlib
import json
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from onnx import TensorProto, helper, numpy_helper

from consumer.adapters import model_bundle
from consumer.adapters.model_bundle import LARGEST_MANIFEST_BYTES, load_bundle, sign_bundle
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.manifest import MANIFEST_FILE
from consumer.errors import ConfigError, ModelError
from tests.builders import tiny_bundle

WIDTH = len(ARRIVAL_1.names)


class Folder:
    """A copy of a sound bundle, to be spoilt."""

    def __init__(self, path):
        self.path = path

    @property
    def manifest(self):
        return json.loads((self.path / MANIFEST_FILE).read_text())

    @property
    def model(self):
        return self.path / self.manifest["model"]["name"]

    def change(self, **values):
        """Replace values of the manifest."""
        (self.path / MANIFEST_FILE).write_text(json.dumps(self.manifest | values))

    def put(self, data, **values):
        """Replace the model's bytes, and what the manifest states of them."""
        self.model.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        stated = {"name": self.model.name, "size_bytes": len(data), "sha256": digest}
        self.change(model=stated, **values)

    def refused(self, *, allow_pickle=False):
        """Return the sentence it is refused with, which names the folder or a file in it."""
        with pytest.raises(ModelError) as caught:
            load_bundle(self.path, allow_pickle=allow_pickle)
        [sentence] = caught.value.faults
        assert str(self.path) in sentence
        assert "\n" not in sentence
        return sentence


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.write_text, ("ran",)


@pytest.fixture
def folder(bundle_folder, tmp_path):
    return Folder(shutil.copytree(bundle_folder, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def pickled_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("pickled") / "bundle"
    tiny_bundle(path, "sklearn", trees=3)
    return path


@pytest.fixture
def pickled(pickled_bundle, tmp_path):
    return Folder(shutil.copytree(pickled_bundle, tmp_path / "bundle"))


def test_a_sound_bundle_is_loaded(folder):
    """Its model gives what the manifest promises."""
    bundle = load_bundle(folder.path, allow_pickle=False)

    assert bundle.model.engine == "quickscorer"
    assert bundle.feature_set is ARRIVAL_1
    rows = np.array([row["features"] for row in folder.manifest["golden"]], np.float32)
    expected = [row["probability"] for row in folder.manifest["golden"]]
    assert np.abs(bundle.model.score(rows) - expected).max() <= 1e-6


def test_a_bundle_says_what_predictions_repeat(folder):
    """Identity and policy are the manifest's."""
    bundle = load_bundle(folder.path, allow_pickle=False)
    version = folder.manifest["version"]

    assert (bundle.identity.name, bundle.identity.version) == ("tiny", version)
    assert (bundle.identity.feature_set, bundle.identity.feature_count) == ("arrival-1", WIDTH)
    assert bundle.identity.policy_version == bundle.policy.version == f"tiny-{version}"
    assert (bundle.policy.challenge, bundle.policy.review, bundle.policy.decline) == (
        0.05,
        0.1,
        0.9,
    )
    assert bundle.genuine_medians.tolist() == folder.manifest["genuine_medians"]
    assert bundle.genuine_medians.dtype == np.float32


def test_the_same_file_may_be_scored_by_onnxruntime(folder):
    """The manifest names the engine; nothing is chosen here."""
    folder.change(engine="onnxruntime")

    assert load_bundle(folder.path, allow_pickle=False).model.engine == "onnxruntime"


def test_a_refused_model_is_a_fault_of_the_configuration(folder):
    """The process does not start, with the same exit code."""
    folder.change(feature_set="none")

    with pytest.raises(ConfigError):
        load_bundle(folder.path, allow_pickle=False)


def test_a_folder_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    """Train one, or say where it is."""
    sentence = Folder(tmp_path / "nowhere").refused()

    assert "No such file or directory" in sentence
    assert "fraudstream train" in sentence


def test_a_manifest_of_absurd_size_is_refused(folder):
    """It is read as a whole."""
    (folder.path / MANIFEST_FILE).write_bytes(b" " * (LARGEST_MANIFEST_BYTES + 1))

    assert "larger than" in folder.refused()


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_manifest_is_refused(folder, share):
    """As one that is still being copied."""
    file = folder.path / MANIFEST_FILE
    text = file.read_text()
    file.write_text(text[: int(len(text) * share)])

    assert "is no manifest of this build" in folder.refused()


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"format": 2}, "format"),
        ({"engine": "tensorflow"}, "engine"),
        ({"golden": []}, "golden"),
        ({"more": 1}, "more"),
        ({"thresholds": {"challenge": 2, "review": 2, "decline": 2}}, "thresholds.challenge"),
        ({"model": {"name": "../m", "size_bytes": 1, "sha256": "0" * 64}}, "model.name"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_with_the_place(folder, values, where):
    """The first fault of it."""
    folder.change(**values)

    assert f"is no manifest of this build: {where}: " in folder.refused()


def test_a_missing_model_file_is_refused(folder):
    """The manifest alone is no model."""
    folder.model.unlink()

    assert folder.model.name in folder.refused()


def test_a_folder_in_the_place_of_the_model_is_refused(folder):
    """It cannot be read."""
    folder.change(model=folder.manifest["model"] | {"name": ".."})

    assert "cannot be read" in folder.refused()


def test_a_changed_byte_is_refused(folder):
    """The digest is of the very bytes that would be loaded."""
    data = bytearray(folder.model.read_bytes())
    data[len(data) // 2] ^= 1
    folder.model.write_bytes(data)

    sentence = folder.refused()

    assert hashlib.sha256(data).hexdigest() in sentence
    assert folder.manifest["model"]["sha256"] in sentence
    assert str(folder.model) in sentence


@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""],
    ids=["shorter", "longer", "empty"],
)
def test_a_file_of_another_size_is_refused(folder, change):
    """However long it is, no more is read than the manifest states."""
    size = len(folder.model.read_bytes())
    folder.model.write_bytes(change(folder.model.read_bytes()))

    assert f"is not the {size} bytes that its manifest states" in folder.refused()


def test_an_unknown_feature_set_is_refused_with_those_there_are(folder):
    """The model wants features that this build does not compute."""
    folder.change(feature_set="arrival-0")

    assert (
        "wants feature set 'arrival-0'; this build has arrival-1, arrival-2, arrival-3, arrival-4,"
        " handbook-1" in folder.refused()
    )


def test_a_feature_that_the_set_does_not_have_is_refused_by_name(folder):
    """A row could not be filled."""
    folder.change(feature_names=[*ARRIVAL_1.names[:-1], "shoe_size"])

    assert "shoe_size" in folder.refused()


@pytest.mark.parametrize(
    "names",
    [ARRIVAL_1.names[:-1], ARRIVAL_1.names[::-1], (*ARRIVAL_1.names, "amount"), ()],
    ids=["missing", "reordered", "twice", "none"],
)
def test_features_in_another_order_are_refused(folder, names):
    """Columns have no names by the time they are scored."""
    folder.change(feature_names=list(names))

    assert "incompletely or in another order" in folder.refused()


@pytest.mark.parametrize("name", ["golden", "genuine_medians"])
def test_rows_of_another_width_are_refused(folder, name):
    """They belong to another model."""
    short = [0.0] * (WIDTH - 1)
    folder.change(**{name: [{"features": short, "probability": 0}] if name == "golden" else short})

    assert f"rows that are not {WIDTH} features wide" in folder.refused()


@pytest.mark.parametrize(
    "thresholds", [(0.2, 0.1, 0.9), (0.1, 0.9, 0.2)], ids=["challenge", "decline"]
)
def test_thresholds_that_do_not_rise_are_refused(folder, thresholds):
    """A payment would be declined and not reviewed."""
    folder.change(thresholds=dict(zip(("challenge", "review", "decline"), thresholds, strict=True)))

    assert "thresholds that do not rise" in folder.refused()


def test_equal_thresholds_rise_enough(folder):
    """Nothing lies between them."""
    folder.change(thresholds={"challenge": 0.5, "review": 0.5, "decline": 0.5})

    assert load_bundle(folder.path, allow_pickle=False).policy.review == 0.5


@pytest.mark.parametrize(("off", "loads"), [(0.9e-6, True), (-0.9e-6, True), (1e-5, False)])
def test_a_golden_row_must_come_out_as_it_did(folder, off, loads):
    """Within a millionth: another engine or another kernel is found before a payment is scored."""
    golden = folder.manifest["golden"]
    golden[5]["probability"] += off
    folder.change(golden=golden)

    if loads:
        load_bundle(folder.path, allow_pickle=False)
    else:
        assert "for golden row 5, its manifest states" in folder.refused()


def test_a_golden_probability_that_is_no_number_is_refused(folder):
    """Nothing can be compared with it."""
    text = (folder.path / MANIFEST_FILE).read_text()
    number = json.dumps(folder.manifest["golden"][0]["probability"])
    (folder.path / MANIFEST_FILE).write_text(text.replace(number, "NaN", 1))

    assert "golden.0.probability" in folder.refused()


def test_a_model_that_gives_no_number_for_a_golden_row_is_refused(folder):
    """NaN is within no tolerance."""
    folder.put(
        onnx_file(
            helper.make_node("Mul", ["x", "nan"], ["y"]),
            helper.make_node("Slice", ["y", "begin", "end", "axis"], ["p"]),
        ),
        engine="onnxruntime",
    )

    assert "gives nan for golden row 0" in folder.refused()


def test_a_model_that_cannot_score_its_golden_rows_is_refused(folder):
    """It wants another number of features."""
    folder.put(onnx_file(helper.make_node("Identity", ["x"], ["p"]), width=3), engine="onnxruntime")

    assert "cannot score its own golden rows" in folder.refused()


def test_a_model_that_scores_one_column_is_refused(folder):
    """Probabilities of both classes are asked for."""
    folder.put(
        onnx_file(helper.make_node("ReduceMean", ["x"], ["p"], axes=[1]), out=1),
        engine="onnxruntime",
    )

    assert "golden row" in folder.refused()


def onnx_file(*nodes, width=WIDTH, out=2, domains=("",), tensors=()):
    """Return an ONNX file of these nodes, with some constants at hand."""
    constants = {
        "nan": np.array(np.nan, np.float32), "begin": np.array([0]), "end": np.array([2]),
        "axis": np.array([1]),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, out])],
        [*(numpy_helper.from_array(v, k) for k, v in constants.items()), *tensors],
    )
    opsets = [helper.make_opsetid(domain, 13 if domain == "" else 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model.SerializeToString()


def test_operators_beyond_onnx_s_own_are_refused(folder):
    """They may run anybody's code."""
    gelu = helper.make_node("Gelu", ["x"], ["p"], domain="com.microsoft")
    folder.put(onnx_file(gelu, domains=("", "com.microsoft")), engine="onnxruntime")

    assert "operators of 'com.microsoft'" in folder.refused()


def test_weights_outside_the_file_are_refused(folder, tmp_path):
    """They have no digest, and the path may lead anywhere."""
    tensor = numpy_helper.from_array(np.zeros(WIDTH, np.float32), "w")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=str(tmp_path / "weights"))
    add = helper.make_node("Add", ["x", "w"], ["p"])
    folder.put(onnx_file(add, out=WIDTH, tensors=[tensor]), engine="onnxruntime")

    assert "weights in another file" in folder.refused()


@pytest.mark.parametrize("engine", ["quickscorer", "onnxruntime"])
@pytest.mark.parametrize("data", [b"not a model", b"\x80\x05pickle", b"PK\x03\x04zip"])
def test_bytes_that_are_no_model_are_refused_whatever_their_digest(folder, engine, data):
    """A right digest says who made it, and not that it is good."""
    folder.put(data, engine=engine)

    assert f"cannot be loaded by {engine}" in folder.refused()


def test_a_model_that_quickscorer_cannot_take_is_refused_with_the_engine_that_can(folder):
    """A sentence to act on."""
    folder.put(onnx_file(helper.make_node("Identity", ["x"], ["p"]), out=WIDTH))

    assert "set engine onnxruntime in its manifest" in folder.refused()


def test_a_pickle_is_refused_without_permission(pickled):
    """It runs code as it loads, so not even a right digest will do."""
    sentence = pickled.refused()

    assert "is a pickle, which runs code as it loads" in sentence
    assert "model.allow_pickle = true" in sentence


def test_a_pickle_is_loaded_with_permission(pickled):
    """Whoever made it may say so."""
    assert load_bundle(pickled.path, allow_pickle=True).model.engine == "sklearn"


def test_a_pickle_is_not_touched_before_its_digest_is_right(pickled, tmp_path):
    """Permission is for the file that was hashed."""
    touched = tmp_path / "touched"

    stated = pickled.manifest["model"]["size_bytes"]
    pickled.model.write_bytes(pickle.dumps(Canary(touched)).ljust(stated, b"\0"))

    assert "sha256" in pickled.refused(allow_pickle=True)
    assert not touched.exists()


def test_the_canary_sings(tmp_path):
    """The tests around this one prove something."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "touched")))  # noqa: S301 - our own

    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("engine", ["quickscorer", "onnxruntime"])
def test_a_pickle_under_another_engine_s_name_never_runs(pickled, tmp_path, engine):
    """The engine decides how bytes are read, and ONNX cannot run code of them."""
    touched = tmp_path / "touched"

    pickled.put(pickle.dumps(Canary(touched)), engine=engine)

    assert "cannot be loaded by" in pickled.refused(allow_pickle=True)
    assert not touched.exists()


def test_a_pickle_of_another_scikit_learn_is_refused(pickled):
    """It may load, and score otherwise."""
    pickled.change(sklearn_version="1.0.2")

    sentence = pickled.refused(allow_pickle=True)

    assert "was pickled by scikit-learn 1.0.2" in sentence


def test_onnx_does_not_ask_for_the_same_scikit_learn(folder):
    """The file says all there is to it."""
    folder.change(sklearn_version="1.0.2")

    load_bundle(folder.path, allow_pickle=False)


def test_the_files_of_these_tests_are_what_they_claim():
    """Valid ONNX, refused for one thing each."""
    onnx.checker.check_model(onnx_file(helper.make_node("Identity", ["x"], ["p"])))


@pytest.mark.parametrize("size", [2**30 + 1, 2**62])
def test_a_model_of_absurd_size_is_refused(folder, size):
    """It would be read whole."""
    folder.change(model=folder.manifest["model"] | {"size_bytes": size})

    assert "would be larger than" in folder.refused()


class Signer:
    """An Ed25519 key: its two files, and the signing of bundles with it."""

    def __init__(self, folder, name, passphrase=None):
        key = Ed25519PrivateKey.generate()
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        self.public.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self.passphrase = passphrase

    def sign(self, folder):
        """Sign the bundle; return the signature's file."""
        return sign_bundle(folder.path, self.private, self.passphrase)


@pytest.fixture
def signer(tmp_path):
    return Signer(tmp_path, "signer")


def load_signed(folder, signer):
    """Load the bundle if the signer signed it."""
    return load_bundle(folder.path, allow_pickle=False, public_key=str(signer.public))


def refused_signed(folder, signer):
    """Return the sentence that the bundle is refused with for want of a signature."""
    with pytest.raises(ModelError) as caught:
        load_signed(folder, signer)
    [sentence] = caught.value.faults
    return sentence


def test_a_signed_bundle_is_loaded(folder, signer):
    """And one that needs no signature is loaded with one."""
    signer.sign(folder)

    assert load_signed(folder, signer).model.engine == "quickscorer"
    assert load_bundle(folder.path, allow_pickle=False)


def test_a_bundle_without_the_signature_that_is_asked_for_is_refused(folder, signer):
    """With what makes one."""
    assert "`fraudstream sign`" in refused_signed(folder, signer)


def test_a_signature_of_another_key_is_refused(folder, signer, tmp_path):
    """The key is pinned: no bundle brings its own."""
    Signer(tmp_path, "stranger").sign(folder)

    assert "was not signed as it is by the key of" in refused_signed(folder, signer)


@pytest.mark.parametrize("name", ["thresholds", "engine", "model"])
def test_nothing_that_the_manifest_says_can_be_changed(folder, signer, name):
    """Thresholds decide as much as the model does."""
    signer.sign(folder)
    changed = {
        "thresholds": {"challenge": 0.9, "review": 0.9, "decline": 1.0},
        "engine": "sklearn",
        "model": folder.manifest["model"] | {"sha256": "0" * 64},
    }[name]
    folder.change(**{name: changed})

    assert "was not signed as it is" in refused_signed(folder, signer)


def test_the_model_file_is_signed_with_its_manifest(folder, signer):
    """By its digest, which the signature covers."""
    signer.sign(folder)
    data = bytearray(folder.model.read_bytes())
    data[-1] ^= 1
    folder.model.write_bytes(data)

    assert "has sha256" in refused_signed(folder, signer)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 63, b"\0" * 10_000])
def test_what_is_no_signature_is_refused(folder, signer, signature):
    """Whatever its length."""
    signer.sign(folder).write_bytes(signature)

    assert "was not signed as it is" in refused_signed(folder, signer)


@pytest.mark.parametrize("name", ["manifest", "model"])
def test_what_is_checked_is_what_is_loaded(folder, signer, monkeypatch, name):
    """A file that is exchanged right after its check is not read again."""
    signer.sign(folder)
    file = folder.path / MANIFEST_FILE if name == "manifest" else folder.model
    check = {"manifest": "require_signature", "model": "_feature_set"}[name]
    original = getattr(model_bundle, check)

    def exchange_after(*args):
        checked = original(*args)
        file.write_bytes(b"something else")
        return checked

    monkeypatch.setattr(model_bundle, check, exchange_after)

    bundle = load_signed(folder, signer)

    assert file.read_bytes() == b"something else"
    assert bundle.manifest.name == "tiny"
    assert bundle.model.engine == "quickscorer"


def test_a_pickle_with_a_signature_still_needs_permission(pickled, signer):
    """To trust who made it is not to let it run."""
    signer.sign(pickled)

    assert "is a pickle" in refused_signed(pickled, signer)


def test_a_key_with_a_passphrase_signs(folder, tmp_path):
    """And does not without it."""
    signer = Signer(tmp_path, "signer", b"canary-3f9c1d")
    signer.sign(folder)

    assert load_signed(folder, signer)
    for wrong in (None, b"another"):
        with pytest.raises(ConfigError, match=r"passphrase|Password") as caught:
            sign_bundle(folder.path, signer.private, wrong)
        assert "canary" not in str(caught.value)


def test_a_bundle_whose_model_is_another_is_not_signed(folder, signer):
    """A signature says that somebody has looked."""
    folder.model.write_bytes(b"another")

    with pytest.raises(ModelError, match="that its manifest states"):
        signer.sign(folder)


@pytest.mark.parametrize("content", [None, b"no key", "private", "rsa"])
def test_a_pinned_key_that_is_none_is_refused(folder, signer, content):
    """With how to make one; nothing is loaded without its check."""
    signer.sign(folder)
    if content is None:
        signer.public.unlink()
    elif content == "private":
        signer.public.write_bytes(signer.private.read_bytes())
    elif content == "rsa":
        key = rsa.generate_private_key(65_537, 2_048).public_key()
        signer.public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    else:
        signer.public.write_bytes(content)

    with pytest.raises(ConfigError, match=r"model\.public_key: "):
        load_signed(folder, signer)


def test_openssl_makes_and_checks_the_same_signatures(folder, signer, tmp_path):
    """So that a signing service needs nothing of ours."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    manifest = str(folder.path / MANIFEST_FILE)
    signature = str(signer.sign(folder))
    command = [openssl, "pkeyutl", "-rawin", "-in", manifest]

    verify = ["-verify", "-pubin", "-inkey", str(signer.public), "-sigfile", signature]
    assert subprocess.run([*command, *verify], capture_output=True, check=False).returncode == 0
    (tmp_path / "bundle" / "manifest.json.sig").unlink()
    sign = ["-sign", "-inkey", str(signer.private), "-out", signature]
    subprocess.run([*command, *sign], capture_output=True, check=True)

    assert load_signed(folder, signer)


def test_pickles_are_loaded_in_one_place_alone():
    """There is no second door: what unpickles stands in the engine that asks for permission."""
    loads = re.compile(
        r"(pickle|joblib|skops\.io|dill)\.loads?\(|get_model\(|yaml\.load\(|torch\.load\("
    )
    sources = [
        p for top in ("consumer", "training", "producer_sim") for p in Path(top).rglob("*.py")
    ]

    assert len(sources) > 90
    assert [p.name for p in sources if loads.search(p.read_text())] == ["engines.py"]
