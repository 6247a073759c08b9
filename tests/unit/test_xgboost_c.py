"""XGBoost by its C API: the package's own numbers to the last bit, without the package."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from fraudstream import xgboost_c
from fraudstream.bundle import Bundle, load_bundle
from fraudstream.errors import SettingsError
from fraudstream.score import XGBOOST_VERSION, Model
from fraudstream.ubj import check_model

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "default"
STATUS = Path("/proc/self/status")
#: How much the process may grow in a test; a leak there would be three times as much, or more.
GROWTH_KB_MAX = 4_000

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(SHIPPED)


@pytest.fixture(scope="module", params=["model", "fallback"])
def pair(request: pytest.FixtureRequest, bundle: Bundle) -> tuple[Model, xgboost.Booster]:
    """Give a shipped model, and the same one in XGBoost's own package."""
    booster = xgboost.Booster({"nthread": 1}, model_file=SHIPPED / f"{request.param}.ubj")
    return getattr(bundle, request.param), booster


def _vectors(bundle: Bundle, model: Model, rows: int) -> Vectors:
    """Mix the golden vectors column by column, spread them, and forget a tenth of the values."""
    rng = np.random.default_rng(rows)
    golden = bundle.golden_vectors[:, [bundle.model.columns.index(c) for c in model.columns]]
    mixed = rng.choice(golden, rows) if rows else golden[:0]
    mixed = rng.permuted(mixed, axis=0) * rng.lognormal(0, 0.5, mixed.shape)
    mixed[rng.random(mixed.shape) < 0.1] = np.nan
    return mixed.astype(np.float32)


def test_the_vectors_lead_to_many_leaves(
    bundle: Bundle, pair: tuple[Model, xgboost.Booster]
) -> None:
    """Otherwise the tests below would compare little."""
    vectors = _vectors(bundle, pair[0], 1000)
    assert 0.05 < np.isnan(vectors).mean() < 0.2
    assert len(np.unique(pair[1].inplace_predict(vectors, missing=np.nan))) > 100


@pytest.mark.parametrize("rows", [1, 7, 256, 1000])
def test_scores_are_those_of_the_package_bit_for_bit(
    bundle: Bundle, pair: tuple[Model, xgboost.Booster], rows: int
) -> None:
    model, booster = pair
    vectors = _vectors(bundle, model, rows)
    expected = booster.inplace_predict(vectors, missing=np.nan)
    found = model.score(vectors)
    assert (found.shape, found.dtype) == ((rows,), np.dtype(np.float32))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("is_approximate", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 256, 1000])
def test_contributions_are_those_of_the_package_bit_for_bit(
    bundle: Bundle, pair: tuple[Model, xgboost.Booster], rows: int, *, is_approximate: bool
) -> None:
    model, booster = pair
    vectors = _vectors(bundle, model, rows)
    matrix = xgboost.DMatrix(vectors, feature_names=list(model.columns), nthread=1)
    expected = booster.predict(matrix, pred_contribs=True, approx_contribs=is_approximate)
    found = model.contributions(vectors, is_approximate=is_approximate)
    assert (found.shape, found.dtype) == (vectors.shape, np.dtype(np.float32))
    assert found.tobytes() == expected[:, :-1].tobytes()
    if not is_approximate:
        assert model.bias == expected[0, -1]


def test_no_rows_give_nothing_as_in_the_package(
    bundle: Bundle, pair: tuple[Model, xgboost.Booster]
) -> None:
    model, booster = pair
    nothing = _vectors(bundle, model, 0)
    assert not booster.inplace_predict(nothing, missing=np.nan).size
    assert model.score(nothing).shape == (0,)
    assert model.contributions(nothing).shape == nothing.shape


def test_the_version_is_the_package_s() -> None:
    assert xgboost_c.version() == XGBOOST_VERSION == xgboost.__version__
    assert xgboost_c.has_cuda() is bool(xgboost.build_info().get("USE_CUDA"))


def test_a_result_stays_when_the_next_one_comes(bundle: Bundle) -> None:
    """The library writes it to the same place again."""
    vectors = _vectors(bundle, bundle.model, 7)
    for give in (bundle.model.score, bundle.model.contributions):
        first = give(vectors)
        kept = first.copy()
        give(vectors[::-1])
        np.testing.assert_array_equal(first, kept)


def test_threads_that_share_a_model_get_their_own_results(bundle: Bundle) -> None:
    """As it was with the package: the audit scores beside a worker."""
    halves = np.split(_vectors(bundle, bundle.model, 64), 2)
    expected = [bundle.model.score(half) for half in halves]
    wrong: list[int] = []

    def run(number: int) -> None:
        found = [bundle.model.score(halves[number]) for _ in range(100)]
        wrong.append(sum(not np.array_equal(scores, expected[number]) for scores in found))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0]


@pytest.mark.parametrize(
    ("broken", "words"),
    [(b"neither JSON nor UBJSON", "Unknown construct"), (b'{"learner": {}}', "map::at")],
)
def test_a_broken_model_is_refused_in_the_librarys_words(broken: bytes, words: str) -> None:
    with pytest.raises(xgboost_c.XGBoostError, match=words):
        xgboost_c.Booster(broken, {"nthread": "1"})


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 23), np.float64),
        np.zeros(23, np.float32),
        np.zeros((23, 2), np.float32).T,
        np.zeros((2, 46), np.float32)[:, ::2],
    ],
    ids=["double", "flat", "by column", "with gaps"],
)
def test_memory_that_is_no_matrix_is_not_read(bundle: Bundle, wrong: Vectors) -> None:
    booster = xgboost_c.Booster((SHIPPED / "model.ubj").read_bytes(), {"nthread": "1"})
    with pytest.raises(ValueError, match="C-contiguous matrix of float32"):
        booster.predict(wrong)
    with pytest.raises(ValueError, match="C-contiguous matrix of float32"):
        booster.contributions(wrong, is_approximate=True)


@pytest.mark.parametrize("columns", [22, 24])
def test_another_number_of_columns_is_refused(columns: int) -> None:
    booster = xgboost_c.Booster((SHIPPED / "model.ubj").read_bytes(), {"nthread": "1"})
    rows = np.zeros((2, columns), np.float32)
    with pytest.raises(xgboost_c.XGBoostError):
        booster.predict(rows)
    with pytest.raises(xgboost_c.XGBoostError):
        booster.contributions(rows, is_approximate=True)


def test_memory_that_is_not_aligned_is_scored_all_the_same(bundle: Bundle) -> None:
    vectors = _vectors(bundle, bundle.model, 7)
    buffer = np.frombuffer(b"\0" + vectors.tobytes(), np.uint8)[1:]
    shifted = buffer.view(np.float32).reshape(vectors.shape)
    assert not shifted.flags.aligned
    np.testing.assert_array_equal(bundle.model.score(shifted), bundle.model.score(vectors))


@pytest.mark.parametrize(
    ("system", "name"),
    [("linux", "libxgboost.so"), ("darwin", "libxgboost.dylib"), ("win32", "xgboost.dll")],
)
def test_the_library_is_found_by_its_name(tmp_path: Path, system: str, name: str) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(SettingsError, match=rf"but not its {name}: install it again"):
        xgboost_c.library_file(folders, system)
    for folder in reversed(folders):
        folder.mkdir()
        (folder / name).touch()
        assert xgboost_c.library_file(folders, system) == folder / name


def _run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)


def test_a_worker_and_its_bundle_load_neither_the_package_nor_scipy() -> None:
    """And the package may come afterwards: it is the same library, and gives the same scores."""
    _run(
        "import sys\n"
        "import fraudstream.app, fraudstream.supervisor, fraudstream.demo.run\n"
        "import fraudstream.audit.watch, fraudstream.offline.scoring\n"
        "import fraudstream.cli.run, fraudstream.cli.score_batch\n"
        "from fraudstream.bundle import load_bundle\n"
        f"bundle = load_bundle({str(SHIPPED)!r})\n"
        "vectors = bundle.golden_vectors\n"
        "scores = bundle.model.score(vectors)\n"
        "bundle.model.contributions(vectors), bundle.model.bias\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'xgboost', 'scipy', 'sklearn', 'pandas'}, loaded\n"
        "import xgboost\n"
        f"booster = xgboost.Booster(model_file={str(SHIPPED / 'model.ubj')!r})\n"
        "assert (booster.inplace_predict(vectors) == scores).all()\n"
        "assert (bundle.model.score(vectors) == scores).all()\n"
    )


def test_a_process_without_the_package_says_what_it_needs() -> None:
    done = _run(
        "import sys\n"
        "sys.modules['xgboost'] = None\n"
        "try:\n"
        "    import fraudstream.score\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    assert done.stdout == "xgboost\n"


def test_what_the_library_says_becomes_a_warning_and_nothing_is_printed() -> None:
    """A device that is not there is such a thing; `require_device` asks first."""
    done = _run(
        "import warnings\n"
        "from fraudstream import xgboost_c\n"
        f"model = open({str(SHIPPED / 'model.ubj')!r}, 'rb').read()\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    parameters = {'nthread': '1', 'no_such': '1', 'validate_parameters': '1'}\n"
        "    booster = xgboost_c.Booster(model, parameters)\n"
        "    import numpy as np\n"
        "    booster.predict(np.zeros((1, 23), np.float32))\n"
        "assert len(caught) == 1, caught\n"
        "assert 'no_such' in str(caught[0].message)\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


def _resident_kb() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def _tiny() -> bytes:
    rows = np.random.default_rng(5).normal(size=(300, 3)).astype(np.float32)
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0, feature_names=["a", "b", "c"], nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    return bytes(xgboost.train(parameters, matrix, 10).save_raw("ubj"))


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize("what", ["scores", "exact", "approximate", "refused", "models"])
def test_memory_does_not_grow(what: str) -> None:
    ubj = _tiny()
    model = Model(ubj, check_model(ubj))
    many = np.random.default_rng(6).normal(size=(1000, 3)).astype(np.float32)
    wide = np.zeros((1000, 4), np.float32)
    large = (SHIPPED / "fallback.ubj").read_bytes()
    unknown = np.full((1, len(check_model(large))), np.nan, np.float32)
    booster = xgboost_c.Booster(ubj, {"nthread": "1"})

    def refuse() -> None:
        with pytest.raises(xgboost_c.XGBoostError):
            booster.contributions(wide, is_approximate=True)

    work: dict[str, tuple[int, Callable[[], object]]] = {
        "scores": (5_000, lambda: model.score(many)),
        "exact": (2_000, lambda: model.contributions(many[:400])),
        "approximate": (2_000, lambda: model.contributions(many[:400], is_approximate=True)),
        "refused": (2_000, refuse),
        "models": (500, lambda: xgboost_c.Booster(large, {"nthread": "1"}).predict(unknown)),
    }
    times, once = work[what]
    for _ in range(times // 10):
        once()
    before = _resident_kb()
    for _ in range(times):
        once()
    assert _resident_kb() - before < GROWTH_KB_MAX
