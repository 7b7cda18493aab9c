// How text, bytes and counts are cut and written.

// GPT-2's pattern; \p{White_Space} is what other languages call \s.
const GPT2 =
  /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

export const hex = (byte) => `⟨${byte.toString(16).toUpperCase().padStart(2, "0")}⟩`;

// Bytes as they can be seen: characters where the bytes make one, else ⟨hex⟩.
export function spell(bytes) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let spelled = "";
  for (let i = 0; i < bytes.length; ) {
    let length = bytes[i] < 0x80 ? 1 : bytes[i] < 0xe0 ? 2 : bytes[i] < 0xf0 ? 3 : 4;
    try {
      spelled += visible(decoder.decode(Uint8Array.from(bytes.slice(i, i + length))));
    } catch {
      length = 1;
      spelled += hex(bytes[i]);
    }
    i += length;
  }
  return spelled;
}

const many = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;

// Three digits and a unit of a thousand: 13.5 GB from ["bytes", "kB", …].
export function brief(n, units) {
  const power = units.findLastIndex((_, i) => i === 0 || n >= 999.5 * 1000 ** (i - 1));
  return `${Number((n / 1000 ** power).toPrecision(3)).toLocaleString("en")} ${units[power]}`;
}

const inBytes = (n) => brief(n, ["bytes", "kB", "MB", "GB", "TB", "PB"]);
