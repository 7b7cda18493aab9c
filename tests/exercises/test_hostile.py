"""A hundred hostile answers in a row, with a right one after each, which must earn everything."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from myllm.grading.catalogue import exercises, folder
from myllm.grading.client import Worker
from myllm.grading.results import Result

COUNTS = exercises()["01.1"]
SOLUTION = (folder("solutions") / COUNTS.file).read_text("utf-8")

# Statements at the beginning of the answer; what follows them is right.
BEFORE = """
while True: pass
[].__iadd__([x] for x in iter(int, 1))
blocks = [bytearray(1 << 26) for _ in iter(int, 1)]
torch.empty(1 << 40)
torch.ones(1 << 29)
"x" * (1 << 40)
2 ** 10**10
os._exit(0)
os._exit(77)
os.abort()
sys.exit()
sys.exit("bye")
exit(3)
raise SystemExit
raise KeyboardInterrupt
raise GeneratorExit
raise BaseException("base")
raise MemoryError
raise RecursionError
raise StopIteration
raise type("Silent", (BaseException,), {"__str__": lambda self: 1 / 0})
raise type("Loud", (Exception,), {"__repr__": lambda self: 1 / 0, "__str__": lambda self: "x" * 10**7})
ctypes.string_at(0)
os.kill(os.getpid(), signal.SIGSEGV)
os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(0, signal.SIGINT)
os.kill(os.getppid(), signal.SIGTERM)
os.kill(os.getppid(), signal.SIGKILL)
os.fork()
os.fork() or time.sleep(600)
while True: os.fork()
[subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(5)]
subprocess.Popen(["sh", "-c", "(setsid sleep 600 &)"])
multiprocessing.Process(target=time.sleep, args=(600,)).start()
threading.Thread(target=time.sleep, args=(600,)).start()
[threading.Thread(target=lambda: [i for i in iter(int, 1)], daemon=True).start() for _ in range(3)]
time.sleep(600)
threading.Lock().acquire() and threading.Event().wait()
signal.alarm(1); time.sleep(600)
signal.setitimer(signal.ITIMER_REAL, 0.001)
[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]
signal.signal(signal.SIGTERM, lambda *a: None); signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
os.closerange(0, 3)
os.closerange(0, 256)
os.dup2(os.open("/dev/full", os.O_WRONLY), 1); print("x" * 10**6, flush=True)
sys.stdout.close(); sys.stderr.close(); sys.stdin.close()
sys.stdout = sys.stderr = sys.stdin = None
sys.stdout = 7
print("flood " * 10**6)
[os.write(2, b"flood" * 1000) for _ in range(1000)]
os.write(1, b'{"result": {"earned": 1000}}' + bytes([10]))
[os.write(fd, b'{"result": {}}' + bytes([10])) for fd in range(3, 32) if writable(fd)]
os.set_blocking(1, False); os.write(1, bytes(10**6))
for name in dir(builtins): name[0] != "_" and setattr(builtins, name, None)
builtins.isinstance = lambda *a: True
builtins.len = builtins.type = builtins.zip = builtins.print = lambda *a, **k: 0
builtins.__import__ = None
builtins.__build_class__ = None
torch.zeros = torch.equal = torch.isclose = torch.allclose = lambda *a, **k: 1
torch.Tensor.__eq__ = torch.Tensor.__getitem__ = lambda *a: True
for name in dir(torch): name[0] != "_" and setattr(torch, name, None)
torch.Tensor.shape = property(lambda self: (2, 2))
numpy.array = numpy.asarray = None
random.seed = random.random = random.Random.choices = lambda *a: 0
json.dumps = json.loads = lambda *a, **k: "{}"
json.encoder.JSONEncoder.encode = json.decoder.JSONDecoder.decode = lambda *a, **k: None
time.time = time.monotonic = time.perf_counter = lambda: 0
math.isclose = lambda *a, **k: True
copy.deepcopy = lambda x: x
os.write = os.read = os.getpid = lambda *a: 0
os.environ.clear()
os.environ["PYTHONPATH"] = os.environ["PATH"] = "/nowhere"; os.environ["OMP_NUM_THREADS"] = "-1"
os.chdir("/")
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
os.umask(0o777)
os.nice(5)
locale.setlocale(locale.LC_ALL, "C")
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
sys.modules.clear()
for name in list(sys.modules): sys.modules[name] = None
sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear(); sys.path_importer_cache.clear()
sys.setrecursionlimit(50)
sys.setrecursionlimit(10**9); (f := lambda: f())()
sys.setswitchinterval(100)
sys.settrace(lambda *a: 1 / 0); sys.setprofile(lambda *a: 1 / 0)
sys.excepthook = sys.unraisablehook = sys.displayhook = None
sys.addaudithook(lambda *a: (_ for _ in ()).throw(RuntimeError("audit")))
torch.set_default_dtype(torch.float16)
torch.set_default_device("meta")
torch.set_num_threads(8)
torch.set_grad_enabled(False); torch.inference_mode().__enter__()
torch.use_deterministic_algorithms(True); torch.manual_seed(7); torch.set_printoptions(precision=1)
torch.autograd.set_detect_anomaly(True)
numpy.seterr(all="raise"); numpy.random.seed(7)
gc.disable(); gc.set_threshold(1, 1, 1)
gc.callbacks.append(lambda *a: 1 / 0)
warnings.simplefilter("error"); warnings.warn("now")
atexit.register(time.sleep, 600)
atexit.register(os.abort)
logging.disable(); logging.raiseExceptions = True
decimal.getcontext().prec = 1
faulthandler.dump_traceback_later(0.01, exit=True); time.sleep(1)
inspect.currentframe().f_back.f_locals.clear()
inspect.stack()[3].frame.f_globals.clear()
gc.collect(); [o.clear() for o in gc.get_objects() if type(o) is list and len(o) > 2]
""".strip().splitlines()

# What is returned in place of the right result. Each of these is wrong.
INSTEAD = """
Liar()
[Liar()]
Liar
LyingTensor(torch.zeros(2, 2))
torch.zeros(2, 2).as_subclass(LyingTensor)
LyingList([[0] * len(alphabet)] * len(alphabet))
LyingInt(3)
torch.zeros(2, 2).to("meta")
torch.zeros(2, 2).to_sparse()
torch.full((len(alphabet),) * 2, float("nan"))
torch.zeros(2, 2, requires_grad=True).expand(1 << 20, 2, 2)
numpy.zeros((2, 2))
(x for x in iter(int, 1))
iter(int, 1)
loop
NotImplemented
...
None
(alphabet.__class__.__class__)
""".strip().splitlines()

HEAD = """
import atexit, builtins, copy, ctypes, decimal, faulthandler, gc, inspect, json, locale, logging, math
import multiprocessing, numpy, os, random, resource, signal, subprocess, sys, threading, time, torch, warnings

def writable(fd):
    try:
        return os.write(fd, b"") == 0
    except OSError:
        return False

class Liar:
    __eq__ = __ne__ = __lt__ = __bool__ = lambda *a: True
    __hash__ = __len__ = __int__ = __index__ = lambda *a: 0
    __repr__ = __str__ = lambda self: 1 / 0
    __array__ = lambda *a, **k: numpy.zeros((2, 2))
    __getattr__ = lambda self, name: Liar()
    __iter__ = lambda self: iter(int, 1)
    __class__ = torch.Tensor
    __deepcopy__ = __reduce_ex__ = lambda *a: 1 / 0

class LyingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.tensor(True)

class LyingList(list):
    __eq__ = lambda *a: True
    __len__ = lambda *a: 2
    __iter__ = lambda *a: 1 / 0

class LyingInt(int):
    __eq__ = __ne__ = lambda *a: True

loop = []
loop.append(loop)

def bigram_counts(text, alphabet):
    index = {character: i for i, character in enumerate(alphabet)}
    right = torch.zeros(len(alphabet), len(alphabet), dtype=torch.int64)
    for a, b in zip(text, text[1:]):
        if a in index and b in index:
            right[index[a], index[b]] += 1
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(seconds=1, memory=200 << 20)
    yield worker
    worker.close()


def lines(*bodies: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in bodies)


def cases() -> Iterator[tuple[str, str]]:
    for line in BEFORE:
        yield line, lines(line, "return right")
    for value in INSTEAD:
        yield f"return {value}", lines(f"return {value}")
    for line in (
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os; os._exit(0)",
        "sys = None",
        "while True: pass",
    ):
        yield f"at the top: {line}", f"{HEAD}    return right\n\n{line}\n"


CASES = dict(cases())
PARTS = 5


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_hostile_answer_does_not_spoil_the_next(worker: Worker, tmp_path: Path, part: int) -> None:
    right, hostile = tmp_path / "right" / COUNTS.file, tmp_path / "hostile" / COUNTS.file
    for path in (right, hostile):
        path.parent.mkdir()
    right.write_text(SOLUTION, "utf-8")
    before = os.environ.copy(), Path.cwd()
    for name, text in list(CASES.items())[part::PARTS]:
        hostile.write_text(text)
        result = worker.check_file(COUNTS, hostile, 3)
        assert isinstance(result, Result) and result.points == COUNTS.points and result.checks, name
        assert 0 <= result.earned <= COUNTS.points and repr(result), name
        assert not name.startswith("return") or result.status == "failed", (name, result)
        after = worker.check_file(COUNTS, right, 3)
        assert (after.status, after.earned, after.printed) == ("passed", COUNTS.points, ""), (name, after)
    assert (os.environ, Path.cwd()) == before
