"""What every Python plugin needs; leave as it is.

The sandbox has no WASI: an exception that nobody catches, or a `print`, would end as a bare trap. `guarded` turns the first
into an error that the user gets to read and, on import, sends `print` to the run's log. Import whatever you need at the top of
your module: the component is a snapshot taken after that, and there is no file to import from later. Not available: time, files,
environment, `traceback` (it opens files) and packages with native code.
"""

import builtins
import functools

from componentize_py_types import Err
from wit_world.imports import log
from wit_world.imports.types import Error_BadSetting, Error_Other, Error_Unsupported


def _print(*values, sep=" ", end="", file=None, flush=False):
    log.write(log.Level.INFO, (" " if sep is None else sep).join(map(str, values)))


builtins.print = _print


def guarded(call):
    """Wraps an exported function."""

    @functools.wraps(call)
    def wrapper(*args):
        try:
            answer = call(*args)
            expected = call.__annotations__.get("return", object)
            if not isinstance(answer, expected):  # else: a bare trap
                raise TypeError(f"{call.__name__} answered {answer!r}, but must answer {getattr(expected, '__name__', expected)}")
            return answer
        except BaseException as error:
            if isinstance(error, Err):
                if isinstance(error.value, (Error_BadSetting, Error_Unsupported, Error_Other)):
                    raise  # an error of the contract, raised on purpose
                error = RuntimeError(error.value).with_traceback(error.__traceback__)  # a call of the host said no
            place, trace = [], error.__traceback__
            while trace is not None:
                place.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
                trace = trace.tb_next
            message = f"{type(error).__name__}: {error} ({' > '.join(place[1:])})"
            log.write(log.Level.ERROR, message)
            raise Err(Error_Other(message)) from None

    return wrapper
