import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scaler.loadtest.response import Malformed, Parser

MOST = 1000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = [
    pytest.param(OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True, id="length"),
    pytest.param(OK + b"content-length:5\r\n\r\nhello", 200, b"hello", True, id="no space"),
    pytest.param(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True, id="no reason"),
    pytest.param(OK + b"Content-Length: 5, 5\r\n\r\nhello", 200, b"hello", True, id="said twice"),
    pytest.param(
        CHUNKS + b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n",
        200,
        b"hello",
        True,
        id="chunks with extension and trailer",
    ),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok",
        201,
        b"ok",
        True,
        id="100 and 103 first",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, id="204"),
    pytest.param(b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, b"", True, id="304"),
    pytest.param(
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, id="close"
    ),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, id="HTTP/1.0"
    ),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
        200,
        b"ok",
        True,
        id="HTTP/1.0 that stays",
    ),
    pytest.param(
        OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200", 200, b"ok", False, id="garbage after it"
    ),
]
BROKEN = [
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
    pytest.param(b"HTTP/2 200\r\n\r\n", id="another version"),
    pytest.param(b"HTTP/1.1 OK\r\n\r\n", id="no status"),
    pytest.param(OK + b"no colon\r\n\r\n", id="no field"),
    pytest.param(OK + b"A: b\r\n c\r\n\r\n", id="a folded line"),
    pytest.param(OK + b"Content-Length: -1\r\n\r\n", id="a negative length"),
    pytest.param(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
    pytest.param(
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        id="a length and chunks",
    ),
    pytest.param(CHUNKS + b"xyz\r\n", id="no size"),
    pytest.param(CHUNKS + b"1\r\nab\r\n", id="a chunk too long"),
    pytest.param(CHUNKS + b"0\r\nab\r\n\r\n", id="no trailer"),
    pytest.param(OK + b"Content-Length: 1001\r\n\r\n", id="too long a body"),
    pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="a switch of protocols"),
    pytest.param(OK + b"A: " + b"x" * 70_000, id="an endless head"),
]


def fed(parser: Parser, parts: list[bytes]) -> bool:
    whole = False
    for part in parts:
        if whole:
            parser.keep = False  # as a connection does with what comes while nobody asked
            break
        whole = parser.feed(part)
    return whole


@pytest.mark.parametrize(("data", "status", "body", "keep"), WHOLE)
def test_an_answer_is_read_however_it_is_cut(
    data: bytes, status: int, body: bytes, keep: bool
) -> None:
    cuts = [[data], [data[i : i + 1] for i in range(len(data))]]
    cuts += [[data[:at], data[at:]] for at in range(1, len(data))]
    cuts += [[data[:5], data[5:at], data[at:]] for at in range(6, len(data))]
    for parts in cuts:
        parser = Parser(MOST)
        parser.begin(wanted=True)
        assert fed(parser, parts), parts
        assert (parser.status, parser.body, parser.keep) == (status, body, keep), parts


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_no_answer_is_malformed_however_it_is_cut(data: bytes) -> None:
    for parts in ([data], [data[i : i + 999] for i in range(0, len(data), 999)],
                  [data[:20], data[20:]]):  # fmt: skip
        with pytest.raises(Malformed):
            fed(Parser(MOST), parts)
    if len(data) < 999:
        with pytest.raises(Malformed):
            fed(Parser(MOST), [data[i : i + 1] for i in range(len(data))])


def test_an_answer_to_head_has_no_body() -> None:
    parser = Parser(MOST)
    parser.begin(no_body=True)
    assert parser.feed(OK + b"Content-Length: 5\r\n\r\n")
    assert parser.keep


def test_without_a_length_the_end_is_the_close() -> None:
    parser = Parser(MOST)
    parser.begin(wanted=True)
    assert not parser.feed(OK + b"\r\nhel")
    assert not parser.feed(b"lo")
    assert parser.end()
    assert (parser.body, parser.keep) == (b"hello", False)


@pytest.mark.parametrize("cut", [10, 30, 40])
def test_a_close_in_the_middle_is_not_the_end(cut: int) -> None:
    data = OK + b"Content-Length: 5\r\n\r\nhello"
    parser = Parser(MOST)
    assert not parser.feed(data[:cut])
    assert not parser.end()


def test_one_parser_reads_many_answers() -> None:
    parser = Parser(MOST)
    for _ in range(3):
        for param in WHOLE[:8]:
            data, status, body, _keep = param.values
            assert isinstance(data, bytes)
            parser.begin(wanted=True)
            assert parser.feed(data)
            assert (parser.status, parser.body) == (status, body)


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
@example(CHUNKS + b"0\r\n\r\n", [45])
def test_no_bytes_raise_anything_else(data: bytes, sizes: list[int]) -> None:
    for prefix in (b"", CHUNKS):
        parser = Parser(MOST)
        rest = prefix + data
        try:
            for size in [*sizes, len(rest)]:
                part, rest = rest[:size], rest[size:]
                if part and parser.feed(part):
                    break
        except Malformed:
            pass


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 17))
def test_chunks_carry_any_bytes(chunks: list[bytes], step: int) -> None:
    data = CHUNKS
    data += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    parser = Parser(MOST)
    parser.begin(wanted=True)
    assert fed(parser, [data[i : i + step] for i in range(0, len(data), step)])
    assert parser.body == b"".join(chunks)
