// One text, several tokenizers: pure functions first, then the picture.

export const LIMIT = 500; // characters

// Every digit alone, else as GPT-2.
const SMOLLM2 = compile(String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+`);

// SentencePiece: a space in front, ▁ for spaces, merges of characters across the whole text, bytes where a piece lacks.
export function sentencePiece({ bytes, first, pieces, tied }) {
  const ids = new Map(pieces.split("\n").map((piece, i) => [piece, first + i]));
  const late = new Set(tied);
  const rank = (left, right) => {
    const id = ids.get(left + right);
    return late.has(id) ? first + ids.size : id;
  };
  return (text) => {
    const characters = text ? [...` ${text}`.replaceAll(" ", "▁").replace(/\p{Cs}/gu, "\ufffd")] : [];
    return joinAll(characters, rank, (left, right) => left + right).flatMap((piece) =>
      ids.has(piece)
        ? [{ id: ids.get(piece), shown: [...piece.replaceAll("▁", " ")].map(visible).join("") }]
        : toBytes(piece).map((byte) => ({ id: bytes + byte, shown: hex(byte) })));
  };
}

// No merges at all: every byte is a token.
export const byteByByte = (text) => toBytes(text).map((byte) => ({ id: byte, shown: byte < 128 ? spell([byte]) : hex(byte) }));

const PUBLISHED = {
  gpt2: { name: "GPT-2", build: (data) => byteLevel(data, GPT2) },
  mistral: { name: "Mistral", build: sentencePiece },
  smollm2: { name: "SmolLM2", build: (data) => byteLevel(data, SMOLLM2) },
};

const listed = (names) => names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];

// What the counts [name, tokens] of a text of so many bytes say, in words.
export function describe(counts, bytes, absent = []) {
  const missing = absent.length ? ` Could not be loaded: the vocabulary of ${listed(absent)}.` : "";
  if (!bytes) return "The text is empty. Type some to see its tokens." + missing;
  if (!counts.length) return `The text is ${many(bytes, "byte")}.${missing}`;
  const needs = counts.map(([name, tokens], i) => i ? `${name} ${tokens.toLocaleString("en")}`
    : `${name} needs ${many(tokens, "token")} for ${many(bytes, "byte")}`).join(", ");
  const least = Math.min(...counts.map(([, tokens]) => tokens));
  const best = counts.filter(([, tokens]) => tokens === least).map(([name]) => name);
  const winner = counts.length > 1 ? `: ${listed(best)} ${best.length > 1 ? "need" : "needs"} the fewest` : "";
  return `${needs}${winner}.${missing}`;
}

const VOCABULARIES = { key: "vocabulary", folder: "vocabularies", store: "myllmVocabularies" };
export const fetchVocabulary = (model, name) => fetchData(model, VOCABULARIES, name);

// The first sentence of the Universal Declaration of Human Rights, then two texts of another kind.
const SAMPLES = [
  ["en", "English", "All human beings are born free and equal in dignity and rights."],
  ["de", "Deutsch", "Alle Menschen sind frei und gleich an Würde und Rechten geboren."],
  ["el", "Ελληνικά", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."],
  ["ru", "Русский", "Все люди рождаются свободными и равными в своем достоинстве и правах."],
  ["ar", "العربية", "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق."],
  ["hi", "हिन्दी", "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।"],
  ["zh", "中文", "人人生而自由,在尊严和权利上一律平等。"],
  ["ja", "日本語", "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。"],
  ["en", "Code", "def mean(xs):\n    return sum(xs) / len(xs)  # 3.14159, 1000000\n"],
  ["en", "Emoji", "👩‍🔬 👍🏽 🇨🇭 😀"],
];

function render({ model, el }) {
  const own = model.get("own");
  const tokenizers = { bytes: { name: "Bytes", encode: byteByByte } };
  if (own.pairs) tokenizers.own = { name: model.get("name"), encode: byteLevel(own, compile(own.pattern)) };
  for (const [key, { name }] of Object.entries(PUBLISHED))
    tokenizers[key] = { name, why: "Its vocabulary is loaded when you type or choose a sentence." };

  let asked = false;
  function use(text) {
    put(model, "text", text);
    if (asked) return;
    asked = true;
    for (const [key, { build }] of Object.entries(PUBLISHED)) {
      tokenizers[key].why = "Its vocabulary is being loaded.";
      fetchVocabulary(model, key).then((data) => (tokenizers[key].encode = build(data)))
        .catch(() => Object.assign(tokenizers[key], { why: "Its vocabulary could not be loaded.", absent: true }))
        .then(draw);
    }
    draw();
  }

  const area = html("textarea", { rows: 3, spellcheck: "false", dir: "auto", oninput: () => use(area.value) });
  const samples = SAMPLES.map(([lang, name, text]) =>
    html("button", { type: "button", lang, onclick: () => use(text) }, name));
  const list = html("ul", { class: "bars tokenizers", "aria-label": "Your text as tokens of each tokenizer" });
  const { question, sentence } = frame(el, "Token comparer",
    [field("Your text", area), html("div", { class: "buttons", role: "group", "aria-label": "Sentences to try" }, ...samples)], [list]);
  question.textContent = "Predict: which tokenizer needs the fewest tokens for your own language? Decide, then type a sentence.";

  const row = (name, share, value, ...below) =>
    html("li", {}, html("p", { class: "head" }, html("b", {}, name), html("span", { class: "note" }, value)),
      html("div", { class: "track" }, html("div", { class: "bar", style: `width: ${100 * share}%` })), ...below);
  const chips = (name, tokens) =>
    html("div", { class: "chips mono scroll", dir: "ltr", tabindex: 0, role: "group", "aria-label": `Tokens of ${name}` },
      ...tokens.map(({ id, shown }, i) => html("span", { class: `chip${i % 2 ? "" : " merged"}`, title: `token ${id}` }, shown)));

  function draw() {
    const text = model.get("text");
    if (area.value !== text) area.value = text;
    const used = [...text].slice(0, LIMIT).join("");
    const bytes = toBytes(used).length;
    const all = Object.values(tokenizers).map((one) => ({ ...one, tokens: one.encode?.(used) }));
    const most = Math.max(1, ...all.map(({ tokens }) => tokens?.length ?? 0));
    list.replaceChildren(...all.map(({ name, why, tokens }) => {
      if (!tokens) return row(name, 0, why);
      const each = tokens.length ? `, ${(bytes / tokens.length).toFixed(2)} bytes each` : "";
      return row(name, tokens.length / most, many(tokens.length, "token") + each, chips(name, tokens));
    }));
    const counts = all.slice(1).flatMap(({ name, tokens }) => tokens ? [[name, tokens.length]] : []);
    const length = [...text].length;
    sentence.textContent = describe(counts, bytes, all.filter(({ absent }) => absent).map(({ name }) => name)) +
      (length > LIMIT ? ` Only the first ${LIMIT} characters of your ${length.toLocaleString("en")} are used.` : "");
  }
  return follow(model, ["text"], draw);
}

export default { render };
