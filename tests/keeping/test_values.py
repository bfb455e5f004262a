"""Any value that a result may hold comes back with its types and bits; what cannot is refused before anything is written."""

import collections
import dataclasses
import enum
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.errors import InputError
from workbench.results import Result

_spec = importlib.util.spec_from_file_location("equality", Path(__file__).with_name("equality.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
same = _module.same


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Holder(Result):
    """Holds anything, under a name that numpy's own writer does not take."""

    file: object


ODD_STRINGS = [
    "",
    "007",
    "1e5",
    "NaN",
    "inf",
    "None",
    "true",
    "\x00",
    "a\x00",
    "\ud800",
    "\ud83d\ude00",
    "a\nb\r\n",
    "\u2028",
    "ü",
    "/",
    "..",
    '{"tuple": []}',
]
ODD_NUMBERS = [
    float("nan"),
    -float("nan"),
    float("inf"),
    -float("inf"),
    -0.0,
    0.0,
    5e-324,
    1.7976931348623157e308,
    0.1,
    2**53 + 1,
    -(2**64),
    10**5000,
    True,
    1,
]
text = st.one_of(st.sampled_from(ODD_STRINGS), st.text(st.characters(), max_size=8))
DTYPES = [
    "?",
    "i1",
    "<i2",
    ">i4",
    "<i8",
    "u1",
    ">u8",
    "<f2",
    ">f4",
    "<f8",
    "g",
    "<c8",
    ">c16",
    "G",
    "<U3",
    ">U2",
    "S3",
    "<M8[ns]",
    "<M8[D]",
    ">m8[s]",
    "<M8",
]
numpy_scalars = (
    st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), (1,))).map(lambda array: array[0])
    | st.builds(np.str_, text)
    | st.builds(np.bytes_, st.binary(max_size=4))
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(ODD_NUMBERS[:-3]),
    text,
    numpy_scalars,
    st.sampled_from([pd.NA, pd.NaT, Path("a/b"), Path("/"), Path("a\ud800")]),
)
keys = st.one_of(st.none(), st.integers(), st.floats(), text, st.tuples(st.integers(), text), numpy_scalars)


@st.composite
def arrays(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    array = draw(hnp.arrays(np.dtype(draw(st.sampled_from(DTYPES))), shape))
    return draw(st.sampled_from([lambda a: a, np.asfortranarray, lambda a: a[::-1] if a.ndim else a, lambda a: a.T]))(array)


def object_arrays(items):
    return st.lists(items, max_size=4).map(lambda found: np.fromiter(found, dtype=object, count=len(found)))


nests = st.recursive(
    plain | arrays(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        object_arrays(inner),
        st.frozensets(keys, max_size=3),
        st.sets(keys, max_size=3),
    ),
    max_leaves=8,
)


@st.composite
def sparse(draw):
    kind = draw(
        st.sampled_from(
            [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array, sp.coo_array, sp.bsr_array, sp.dia_matrix]
        )
    )
    dense = draw(hnp.arrays(draw(st.sampled_from(["f4", "f8", "i8", "?", "c16"])), hnp.array_shapes(min_dims=2, max_dims=2, min_side=1)))
    made = kind(dense)
    if draw(st.booleans()) and made.format in ("csr", "csc"):
        made.indices, made.indptr = made.indices.astype(np.int64), made.indptr.astype(np.int64)
    if draw(st.booleans()) and made.format == "csr" and made.nnz > 1:  # unsorted and double entries stay as they are
        made.indices[:2] = made.indices[:2][::-1]
        made.indices[-1] = made.indices[0]
    return made


def columns(n):
    return st.one_of(
        hnp.arrays(np.dtype("f8"), n),
        hnp.arrays(np.dtype("i4"), n),
        hnp.arrays(np.dtype("?"), n),
        hnp.arrays(np.dtype("<M8[ns]"), n),
        hnp.arrays(np.dtype("<m8[s]"), n),
        st.lists(text | st.none(), min_size=n, max_size=n).map(lambda v: np.array([*v, None], object)[:-1]),
        st.lists(plain, min_size=n, max_size=n).map(lambda v: np.fromiter(v, object, count=n)),
        st.lists(st.sampled_from(["007", "1e5", "", "NaN"]) | st.none(), min_size=n, max_size=n).flatmap(
            lambda v: st.sampled_from(["str", "string[python]", "string", "category"]).map(lambda dtype: pd.array(v, dtype=dtype))
        ),
        st.lists(st.integers(-5, 2**62) | st.none(), min_size=n, max_size=n).map(lambda v: pd.array(v, dtype="Int64")),
        st.lists(st.booleans() | st.none(), min_size=n, max_size=n).map(lambda v: pd.array(v, dtype="boolean")),
        st.lists(st.sampled_from([0.0, 1.5, -1.0]), min_size=n, max_size=n).map(lambda v: pd.array(v, dtype="Float64") / 0),
    )


def indices(n):
    single = st.one_of(columns(n).filter(lambda v: getattr(v, "dtype", None) != np.dtype("<m8[s]")), st.just(np.arange(n)))
    many = st.lists(single, min_size=2, max_size=2).map(
        lambda levels: (
            pd.MultiIndex.from_arrays([pd.Index(level, dtype=level.dtype, tupleize_cols=False) for level in levels], names=["007", None])
            if n
            else pd.MultiIndex.from_arrays([[], []])
        )
    )
    return st.one_of(
        st.just(pd.RangeIndex(2, 2 + n, name="r")),
        st.just(pd.date_range("2020", periods=n, freq="2D")),
        many,
        single.map(lambda v: pd.Index(v, dtype=v.dtype, name=("a", 1), tupleize_cols=False)),
        st.just(pd.Index(["x"] * n)),
    )


@st.composite
def tables(draw):
    n, width = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    index = draw(indices(n))
    parts = [pd.Series(one, dtype=one.dtype, index=index) for one in draw(st.lists(columns(n), min_size=width, max_size=width))]
    table = pd.DataFrame(dict(enumerate(parts)), index=index)
    table.columns = draw(indices(width))
    table.attrs = draw(st.sampled_from([{}, {"unit": (1, "x")}]))
    return table


def round_trip(value, folder):
    Holder(file=value).save(folder / "any")
    return Holder.load(folder / "any").file


_SLOW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@_SLOW
@given(value=nests)
def test_nests_of_values_and_arrays_come_back(tmp_path, value):
    assert same(round_trip(value, tmp_path), value)


@_SLOW
@given(value=tables())
def test_tables_come_back(tmp_path, value):
    assert same(round_trip(value, tmp_path), value)
    for i in range(value.shape[1]):
        column = value.iloc[:, i].rename("007")
        assert same(round_trip(column, tmp_path), column)


@settings(_SLOW, max_examples=60)
@given(value=sparse())
def test_sparse_matrices_come_back(tmp_path, value):
    assert same(round_trip(value, tmp_path), value)


@pytest.mark.parametrize(
    "value", [*ODD_STRINGS, "a" * 70_000, *ODD_NUMBERS], ids=lambda value: "huge" if value == 10**5000 else ascii(str(value)[:12])
)
def test_odd_values_come_back_everywhere(tmp_path, value):
    everywhere = [
        value,
        {value},
        (value,),
        {value: value},
        pd.DataFrame({"x": pd.Series([value, None], dtype=object)}, index=pd.Index([value, 1], dtype=object)),
        np.array([value, None], dtype=object),
        [[value]],
    ]
    assert same(round_trip(everywhere, tmp_path), everywhere)


def test_many_keys_of_one_name_stay_apart(tmp_path):
    value = {f"{'x' * 50}{i}": np.array(i) for i in range(300)} | {"a/b": np.array(1), "a_b": np.array(2), ("a", "b"): np.array(3)}
    assert same(round_trip(value, tmp_path), value)


def test_the_same_result_is_saved_in_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        Holder(file={"x": np.arange(5), "y": {"b", "a"}}).save(tmp_path / name)
    for suffix in (".npz", ".json"):
        assert (tmp_path / "one").with_suffix(suffix).read_bytes() == (tmp_path / "two").with_suffix(suffix).read_bytes()


class _Colour(enum.IntEnum):
    RED = 1


class _Frame(pd.DataFrame):
    pass


def _endless():
    nest = []
    nest.append(nest)
    return nest


Pair = collections.namedtuple("Pair", "a b")
REFUSED = {
    "a function": len,
    "a lambda": lambda: 0,
    "an object": object(),
    "complex": 1j,
    "bytes": b"x",
    "an enum": _Colour.RED,
    "a named tuple": Pair(1, 2),
    "an ordered dict": collections.OrderedDict(a=1),
    "a counter": collections.Counter("a"),
    "a masked array": np.ma.array([1.0], mask=[True]),
    "a matrix": np.matrix([[1.0]]),
    "a record array": np.rec.array([(1, 2.0)]),
    "a structured array": np.zeros(2, [("a", "i4")]),
    "a structured scalar": np.zeros(1, [("a", "i4")])[0],
    "a void": np.void(b"x"),
    "variable strings": np.array(["a"], np.dtype("T")),
    "noted dtype": np.zeros(2, np.dtype("f8", metadata={"a": 1})),
    "an object in an array": np.array([object()], dtype=object),
    "a timestamp": pd.Timestamp("2020"),
    "a period index": pd.period_range("2020", periods=2),
    "intervals": pd.interval_range(0, 2),
    "time zones": pd.Series(pd.date_range("2020", periods=2, tz="UTC")),
    "an object in a table": pd.DataFrame({"x": [object()]}),
    "a sparse column": pd.DataFrame({"x": pd.arrays.SparseArray([0.0, 1.0])}),
    "arrow": pd.Series([1], dtype="int64[pyarrow]"),
    "a kind of table": _Frame({"x": [1]}),
    "a list of lists": sp.lil_matrix((2, 2)),
    "endless": _endless(),
    "a generator": (i for i in ()),
    "a slice": slice(1),
    "a class": int,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_come_back_is_refused_before_anything_is_written(tmp_path, name):
    Holder(file="former").save(tmp_path / "any")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for value in (REFUSED[name], [{"deep": (REFUSED[name],)}]):
        with pytest.raises(InputError, match="cannot be stored"):
            Holder(file=value).save(tmp_path / "any")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_deep_nests_are_refused_before_json_would_fail(tmp_path):
    nest = value = []
    for _ in range(5000):
        nest.append([])
        nest = nest[0]
    with pytest.raises(InputError, match="nested more than"):
        Holder(file=value).save(tmp_path / "any")
    assert list(tmp_path.iterdir()) == []
    mapping: object = 1
    for _ in range(20):  # deep enough for any result; read within a deep stack of calls
        mapping = {"a": (mapping,)}

    def deep(n):
        return deep(n - 1) if n else round_trip(mapping, tmp_path)

    assert same(deep(sys.getrecursionlimit() // 2), mapping)
