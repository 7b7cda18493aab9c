// Masks as rules of b, h, q and k in Python's notation, read without eval. Precedence is Python's: & and | bind
// tighter than a comparison. `and`, `or` and `not`, also as &&, || and !, are understood and shown as &, | and ~.

export const LONGEST_RULE = 200; // characters

const floorDivide = (a, b) => Math.floor(a / b);
const ARITHMETIC = {
  "+": [9, (a, b) => a + b], "-": [9, (a, b) => a - b], "*": [10, (a, b) => a * b],
  "/": [10, (a, b) => a / b], "//": [10, floorDivide], "%": [10, (a, b) => a - b * floorDivide(a, b)],
};
const COMPARISONS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};
const SPELLED = { and: "&&", or: "||", not: "not" };

// Levels of Python's operators; a part of a lower level stands in brackets.
const [COMPARE, OR, AND, SIGN, ATOM] = [4, 5, 7, 11, 12];
const bracket = (part, level) => (part.level < level ? `(${part.text})` : part.text);

function words(text) {
  const found = [];
  const word = /\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_]\w*)|(\/\/|<=|>=|==|!=|&&|\|\||[-+*/%<>&|~!()]))/y;
  const end = text.trimEnd().length;
  while (word.lastIndex < end) {
    const at = word.lastIndex;
    const match = word.exec(text);
    if (match) found.push({ number: match[1], name: match[2], sign: match[3] ?? SPELLED[match[2]] ?? "", shown: match[0].trim() });
    else {
      const [sign] = text.slice(at).trim();
      throw new Error(sign === "=" ? "Use == to compare; a single = is not allowed in a mask." : `‘${sign}’ is not allowed in a mask.`);
    }
  }
  return found;
}

// A rule to { allows: (b, h, q, k) => bool, text: the rule in Python }; throws an Error of one sentence.
export function parse(text) {
  if (text.length > LONGEST_RULE) throw new Error(`A rule has at most ${LONGEST_RULE} characters.`);
  const rest = words(text.replace(/^\s*lambda\s+b\s*,\s*h\s*,\s*q\s*,\s*k\s*:/, ""));
  if (!rest.length) throw new Error("The rule is empty. Write one, such as k <= q.");
  const take = (signs) => (signs.includes(rest[0]?.sign || null) ? rest.shift().sign : null);
  const logic = (sign, level, run, ...parts) => {
    if (!parts.every((part) => part.bool))
      throw new Error(parts.length > 1
        ? `${sign} joins two comparisons; put each in brackets, as in (k <= q) ${sign} (q - k < 3).`
        : "~ and not need a comparison in brackets, as in ~(k > q).");
    const shown = parts.map((part) => bracket(part, level));
    return { bool: true, level, run, text: parts.length > 1 ? shown.join(` ${sign} `) : `~${shown[0]}` };
  };
  const reverse = (part) => logic("~", SIGN, (...at) => !part.run(...at), part);
  const both = (a, b) => logic("&", AND, (...at) => a.run(...at) && b.run(...at), a, b);
  const either = (a, b) => logic("|", OR, (...at) => a.run(...at) || b.run(...at), a, b);
  const arithmetic = (sign, a, b) => {
    if (a.bool || b.bool) throw new Error(`${sign} needs a number on each side, not a comparison.`);
    const [level, run] = ARITHMETIC[sign];
    const divides = level === ARITHMETIC["/"][0] && sign !== "*";
    return { level, text: `${bracket(a, level)} ${sign} ${bracket(b, level + 1)}`, run: (...at) => {
      const [left, right] = [a.run(...at), b.run(...at)];
      if (divides && right === 0) throw new Error(`${sign} divides by zero where q is ${at[2]} and k is ${at[3]}.`);
      return run(left, right);
    } };
  };
  const chain = (signs, part, join) => () => {
    let left = part();
    for (let sign; (sign = take(signs)); ) left = join(sign, left, part());
    return left;
  };

  function atom() {
    const word = rest.shift();
    if (!word) throw new Error("The rule is incomplete: something is missing at its end.");
    if (word.number) return { level: ATOM, text: word.number, run: () => Number(word.number) };
    if (word.sign === "(") {
      const inside = whole();
      if (!take([")"])) throw new Error(rest.length ? `‘${rest[0].shown}’ was not expected.` : "A closing bracket is missing.");
      return inside;
    }
    if (word.sign) throw new Error(`‘${word.shown}’ was not expected.`);
    const at = ["b", "h", "q", "k"].indexOf(word.name);
    if (at < 0) throw new Error(`‘${word.name}’ is unknown: a mask can use b, h, q and k.`);
    return { level: ATOM, text: word.name, run: (...values) => values[at] };
  }
  function unary() {
    if (take(["~", "!"])) return reverse(unary());
    if (!take(["-"])) return atom();
    const part = unary();
    if (part.bool) throw new Error("- needs a number, not a comparison.");
    return { level: SIGN, text: `-${bracket(part, SIGN)}`, run: (...at) => -part.run(...at) };
  }
  const product = chain(["*", "/", "//", "%"], unary, arithmetic);
  const sum = chain(["+", "-"], product, arithmetic);
  const joined = chain(["|"], chain(["&"], sum, (_, a, b) => both(a, b)), (_, a, b) => either(a, b));
  function comparison() {
    const a = joined();
    const sign = take(Object.keys(COMPARISONS));
    if (!sign) return a;
    const b = joined();
    if (take(Object.keys(COMPARISONS))) throw new Error("Compare two things at a time: for 0 < q < 3 write (0 < q) & (q < 3).");
    if (!!a.bool !== !!b.bool || (a.bool && !["==", "!="].includes(sign))) throw new Error(`${sign} cannot compare these two: it needs numbers.`);
    const run = COMPARISONS[sign];
    return { bool: true, level: COMPARE, text: `${bracket(a, OR)} ${sign} ${bracket(b, OR)}`, run: (...at) => run(a.run(...at), b.run(...at)) };
  }
  const not = () => (take(["not"]) ? reverse(not()) : comparison());
  const whole = chain(["||"], chain(["&&"], not, (_, a, b) => both(a, b)), (_, a, b) => either(a, b));

  const found = whole();
  if (rest.length) throw new Error(`‘${rest[0].shown}’ was not expected.`);
  if (!found.bool) throw new Error("A rule must be true or false for each pair: use a comparison, as in k <= q.");
  return { allows: found.run, text: found.text };
}

// The kinds of masks that have a name: their rule, what their number means, and how the sentence calls them.
export const KINDS = {
  causal: { name: "causal", rule: () => "k <= q", said: () => "Causal" },
  "causal window": { name: "causal and window", rule: (n) => `(k <= q) & (q - k < ${n})`, size: "Window size",
    first: () => 3, said: (n) => `Causal and window of ${n}` },
  prefix: { name: "causal or prefix", rule: (n) => `(k <= q) | (k < ${n})`, size: "Prefix length",
    first: (n) => n, said: (n) => `Causal or prefix of ${n}` },
  padding: { name: "causal and padding", rule: (n) => `(k <= q) & (k >= ${n})`, size: "Padding on the left",
    first: () => 2, said: (n) => `Causal and padding of ${n}` },
  documents: { name: "causal and documents", rule: (n) => `(k <= q) & ((q < ${n}) == (k < ${n}))`, size: "Second document begins at",
    first: (n) => n, said: (n) => `Causal and documents split at ${n}` },
  window: { name: "window", rule: (n) => `q - k < ${n}`, size: "Window size", first: () => 3, said: (n) => `Window of ${n}` },
  full: { name: "full", rule: () => "k == k", said: () => "Full" },
};

// Which query may attend to which key: [head][q][k], for the queries and keys 0 to T - 1 of row 0.
export const build = (allows, heads, T) =>
  Array.from({ length: heads }, (_, h) =>
    Array.from({ length: T }, (_, q) => Array.from({ length: T }, (_, k) => allows(0, h, q, k))));

export const count = (mask) => mask.flat().filter(Boolean).length;
