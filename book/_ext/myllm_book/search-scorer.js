// Order of what a search finds: the chapter on the topic, its sections, chapters that speak of it, the glossary, the rest.

// Topics that the title of their chapter does not name.
var TOPICS = {
  "01": "bigram perplexity entropy smoothing likelihood bits per byte",
  "02": "loader shard packing near-duplicates deduplication contamination minhash",
  "03": "byte-pair merges utf-8 unicode",
  "04": "tokenizer tiktoken sentencepiece chat template jinja padding wordpiece unigram",
  "05": "causal mask softmax query key value heads induction",
  "06": "flash gqa mqa grouped-query sliding window online softmax sink",
  "07": "gelu layernorm layer normalization residual embedding initialization weight tying",
  "08": "rope rotary rmsnorm swiglu yarn",
  "09": "safetensors gguf smollm2 hugging face export",
  "10": "adamw muon learning rate cross-entropy warm-up scaling law",
  "11": "checkpoint resume bf16 accumulation clipping mfu profiler",
  "12": "ddp fsdp zero all-reduce deepspeed tensor parallel",
  "13": "sampling temperature top-k top-p min-p beam greedy penalty",
  "14": "paged speculative scheduler prefill batching",
  "15": "quantization outliers w8a8",
  "16": "nf4 gptq",
  "17": "calibration pooling conformal",
  "18": "sft fine-tuning",
  "19": "lora qlora dora adapter",
  "20": "reinforce ppo grpo reward model gae",
  "21": "ipo kto simpo preference best-of-n",
  b: "serving endpoint streaming gradio",
  d: "moe mixture of experts router",
};

var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    const query = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().trim();
    const words = query.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
    const has = (text) => words.every((word) => text.toLowerCase().includes(word));
    const chapter = /(?:^|\/)\d\d-/.test(page);
    if (description !== null) return score; // a definition of the package
    const own = `${title} ${page.replace(/.*\/\d\d-/, "").replaceAll("-", " ")}`;
    if (chapter && !anchor && has(own)) return 1000 - title.length;
    const known = TOPICS[page.match(/(?:^|\/)(\d\d|[bd])-[^/]*$/)?.[1]];
    const topics = `${own} ${known}`.toLowerCase().split(/[^\p{L}\p{N}]+/u);
    const about = words.every((word) => topics.some((topic) => topic.startsWith(word.replace(/s$/, ""))));
    if (known && !anchor && about) return 900;
    if (chapter && !anchor) return score >= 15 ? 400 + score : 100 + score;
    if (chapter) return has(title.split(" > ").at(-1)) ? 600 - title.length : 150 + score;
    if (page.endsWith("glossary")) return 90; // after the chapters that use the word, the earliest of them first
    return Math.min(score, 80);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
