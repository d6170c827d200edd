import signal

from vitadapter_d2.data.parallel import parallel_map


def handler_of(number: int) -> object:
    return signal.getsignal(signal.SIGINT)


def test_ctrl_c_is_left_to_the_process_that_waits():
    assert [*parallel_map(handler_of, range(4), workers=2)] == [signal.SIG_IGN] * 4
    assert [*parallel_map(handler_of, range(1), workers=0)] != [signal.SIG_IGN]
