"""Wrong versions of saving, searching and the GGUF writer: the oracles kill each of these."""

import pytest

PACKAGE = "myllm"
ORACLES = "oracles_store.py"

# what is wrong: file, right, wrong
SCHEMES = {
    "tied weights count twice": (
        "sum({id(one): one.nbytes for one in model.state_dict(keep_vars=True).values()}.values())",
        "sum(one.nbytes for one in model.state_dict(keep_vars=True).values())",
    ),
    "the head is quantized, too": ('name != "lm_head"', "True"),
    "what matches is not asked for": ("match(name, linear) if match else", ""),
    "layers are replaced before all are known to fit": (
        "            on_meta(make, linear, options)\n",
        "            pass\n",
    ),
    "unknown options pass": ("if name not in known:", "if False:"),
    "True is a number": ("if isinstance(known[name], bool) != isinstance(value, bool):", "if False:"),
    "a calibration has no effect": ("if calibration is not None:", "if False:"),
    "options are lost": ("lambda linear: make(linear, **options)", "lambda linear: make(linear)"),
    "gptq takes every layer": ("match=match, **options)", "**options)"),
}
STORE = {
    "a head that is no longer tied": ("        model.tie_weights()\n", "        pass\n"),
    "scales change their dtype": ("None if name in buffers else dtype", "dtype"),
    "shapes are not compared": ("(*x.shape, ", "("),
    "the kind of numbers is not compared": ('"float" if x.dtype in FLOATS else str(x.dtype)', '"float"'),
    "any class is looked up": ("if kind not in KINDS:", "if False:"),
    "any metadata will do": ("config is None or FORMAT not in metadata", "config is None"),
    "options are not saved": ("(type(x).__name__, x.options)", "(type(x).__name__, {})"),
    "a tied head on its own": ('if config.tie_embeddings and name == "lm_head":', "if False:"),
    "a module without features is an error of its own": (
        "except (AttributeError, UserError)",
        "except UserError",
    ),
    "the size is not compared": ("config.n_params > 8 * sum", "config.n_params > 10**99 * sum"),
    "no rotary frequencies": ("(position := parts(config).position) is not None", "False"),
    "in training mode": ("return model.eval()", "return model.train()"),
    "saving checks nothing": (
        '    _check(_skeleton(model.config, layers, "The model"), state, "The model")\n',
        "",
    ),
}
SEARCH = {
    "the loss itself": ("loss(model) - plain", "loss(model)"),
    "a layer stays swapped": ("model.set_submodule(name, layer)", "pass"),
    "loss times bytes": ("(x.loss - now.loss) / (", "(x.loss - now.loss) * ("),
    "one step too many": ("> budget:", ">= budget:"),
    "bytes before loss": ("(row[x].loss, row[x].nbytes)", "(-row[x].nbytes, row[x].loss)"),
    "formats that save nothing, too": ("one.nbytes < now.nbytes]", "one.nbytes <= now.nbytes]"),
    "the head, too": ('else name != "lm_head"', "else True"),
}
WRITER = {
    "rows as they are": ("view(n_head, 2, -1, ", "view(n_head, -1, 2, "),
    "keys with the heads of queries": (
        'config.n_head if "q_proj" in name else config.n_kv_head',
        "config.n_head",
    ),
    "halves to even": ("whole + np.trunc(2 * (exact - whole))", "np.rint(exact)"),
    "128 steps": ("/ 127).astype", "/ 128).astype"),
    "the largest, not the largest magnitude": ("np.abs(blocks).argmax", "blocks.argmax"),
    "rounded down": ("np.float32(8.5)", "np.float32(8)"),
    "code 16": (".clip(max=15)", ""),
    "nibbles the other way round": ("codes[:, :16] | codes[:, 16:] <<", "codes[:, 16:] | codes[:, :16] <<"),
    "neighbours in a byte": ("codes[:, :16] | codes[:, 16:] <<", "codes[:, ::2] | codes[:, 1::2] <<"),
    "infinite scales": ("if not np.isfinite(half).all():", "if False:"),
    "any model": ("plain[name] != getattr(config, name)", "False"),
    "rows that fill no block": ("or weight.shape[1] % BLOCK", ""),
}
TOKENIZER = {
    "any split": ("if _behaviour(from_gguf(values, pre)) == _behaviour(tokenizer):", "if True:"),
    "special tokens are words": ("names[i], types[i] = name, CONTROL", "names[i], types[i] = name, NORMAL"),
    "no begin token": ('f"{KEY}add_bos_token": tokenizer.add_bos', 'f"{KEY}add_bos_token": False'),
    "no end of a turn": ('("eot", "eom")', '("x", "y")'),
    "padding is words": ("dict.fromkeys(range(n), UNUSED)", "dict.fromkeys(range(n), NORMAL)"),
}
TABLES = {
    "quantization.schemes": SCHEMES,
    "quantization.store": STORE,
    "quantization.search": SEARCH,
    "weights.gguf_writer": WRITER,
    "tokenizers.gguf": TOKENIZER,
}
MUTANTS = {name: (file, *change) for file, table in TABLES.items() for name, change in table.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", TABLES)
def test_the_right_version_is_accepted(killed, file):
    assert killed[file] is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_every_wrong_version_is_killed(killed, name):
    assert killed[name] is not None
