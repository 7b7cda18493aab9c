// Text to tokens by merging neighbours.

const encoder = new TextEncoder();
const toBytes = (text) => [...encoder.encode(text)];

// A pattern in Python's notation; \p{White_Space} is what JavaScript does not call \s.
export const compile = (pattern) =>
  new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");

// Joins neighbours, always those of the lowest rank, of equals the leftmost, until no two have a rank.
function joinAll(parts, rank, join) {
  for (;;) {
    let best = Infinity;
    let at = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const found = rank(parts[i], parts[i + 1]);
      if (found < best) [best, at] = [found, i];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, join(parts[at], parts[at + 1]));
  }
}

// Byte-level BPE: merges of ids, inside the chunks of the pattern. A byte without an id is left out.
export function byteLevel({ bytes, first, pairs }, pattern) {
  const packed = atob(pairs);
  const merges = new Map();
  const word = (i) => packed.charCodeAt(i) + 256 * packed.charCodeAt(i + 1);
  const key = (left, right) => left * 2 ** 16 + right;
  for (let i = 0; i < packed.length; i += 4) merges.set(key(word(i), word(i + 2)), first + i / 4);
  const rank = (left, right) => merges.get(key(left.id, right.id));
  const join = (left, right) => ({ id: rank(left, right), bytes: [...left.bytes, ...right.bytes] });
  return (text) =>
    (text.match(pattern) ?? []).flatMap((chunk) => {
      const parts = toBytes(chunk).map((byte) => ({ id: bytes[byte], bytes: [byte] }));
      return joinAll(parts.filter(({ id }) => id !== null), rank, join);
    }).map(({ id, bytes: held }) => ({ id, shown: spell(held) }));
}
