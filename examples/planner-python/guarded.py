"""What every Python plugin needs; leave as it is.

The sandbox has no WASI: an exception that nobody catches, an answer without the types of the contract, or a `print`, would
end as a bare trap. `guarded` turns the first two into an error that the user gets to read and, on import, sends `print` to
the run's log. Import whatever you need at the top of your module: the component is a snapshot taken after that, and there is
no file to import from later. Not available: time, files, environment, `traceback` (it opens files) and packages with native
code.
"""

import builtins
import dataclasses
import functools
import typing

from componentize_py_types import Err
from wit_world.imports import log
from wit_world.imports.types import Error_BadSetting, Error_Other, Error_Unsupported


def _print(*values, sep=" ", end="", file=None, flush=False):
    log.write(log.Level.INFO, (" " if sep is None else sep).join(map(str, values)))


builtins.print = _print


def _misfit(value, kind, at):
    """What of an answer does not fit the contract, if anything."""
    parts, of = typing.get_args(kind), typing.get_origin(kind)
    if of is list or of is tuple:
        if not isinstance(value, of):
            return f"{at} is no {of.__name__}: {value!r}"
        kinds = parts * len(value) if of is list else parts
        return next(filter(None, (_misfit(v, k, f"{at}[{i}]") for i, (v, k) in enumerate(zip(value, kinds)))), None)
    if parts:  # One of several.
        kind = next((part for part in parts if isinstance(value, part)), kind)
    if kind is float and type(value) is int:
        return None
    if not isinstance(value, kind) or kind is int and isinstance(value, bool):
        return f"{at} is no {getattr(kind, '__name__', kind)}: {value!r}"
    if dataclasses.is_dataclass(kind):
        fields = _fields(kind).items()
        return next(filter(None, (_misfit(getattr(value, name), k, f"{at}.{name}") for name, k in fields)), None)
    return None


_fields = functools.cache(typing.get_type_hints)


def guarded(call):
    """Wraps an exported function."""

    @functools.wraps(call)
    def wrapper(*args):
        try:
            answer = call(*args)
            wrong = _misfit(answer, _fields(call).get("return", object), "the answer")
            if wrong:  # else: a bare trap
                raise TypeError(wrong)
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
            message = f"{type(error).__name__}: {error}" + (f" ({' > '.join(place[1:])})" if place[1:] else "")
            log.write(log.Level.ERROR, message)
            raise Err(Error_Other(message)) from None

    return wrapper
