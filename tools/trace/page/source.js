"use strict";

/** A kernel's text with line numbers: comments, preprocessor lines, keywords and literals told apart. */
class Source {
  static KEYWORDS =
    "auto bool break case char const constexpr continue do double else enum extern false float for if inline int " +
    "int32_t int64_t long namespace operator return short signed sizeof static static_cast struct switch template " +
    "true typename uint32_t uint64_t unsigned using void volatile while bf16";

  static TOKEN = new RegExp(
    [
      /(?<comment>\/\/[^\n]*|\/\*[\s\S]*?\*\/)/,
      /(?<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])')/,
      /(?<directive>^[ \t]*#[ \t]*\w+)/,
      /(?<cuda>\b(?:__\w+__|__\w+|threadIdx|blockIdx|blockDim|gridDim|warpSize)\b)/,
      new RegExp(`(?<keyword>\\b(?:${Source.KEYWORDS.replaceAll(" ", "|")})\\b)`),
      /(?<number>\b(?:0x[\da-fA-F]+|\d+\.?\d*(?:e[-+]?\d+)?)[fFuUlL]*\b)/,
    ]
      .map((part) => part.source)
      .join("|"),
    "gm",
  );

  /** Lines of a text as arrays of [kind, piece]. */
  static lines(text) {
    const lines = [[]];
    const put = (kind, piece) =>
      piece.split("\n").forEach((part, i) => {
        if (i > 0) lines.push([]);
        if (part) lines[lines.length - 1].push([kind, part]);
      });
    let end = 0;
    for (const match of text.matchAll(Source.TOKEN)) {
      put("", text.slice(end, match.index));
      put(Object.entries(match.groups).find(([, piece]) => piece !== undefined)[0], match[0]);
      end = match.index + match[0].length;
    }
    put("", text.slice(end));
    return lines;
  }

  /** The line on which a kernel of this name is declared, from 0; -1 where there is none. */
  static entryLine(text, entry) {
    const declared = new RegExp(`__global__[^;{}]*?\\b${entry.replace(/\W/g, "")}\\s*\\(`).exec(text);
    return declared ? text.slice(0, declared.index + declared[0].length).split("\n").length - 1 : -1;
  }

  /** A scrolling box; it opens at `line`, which is marked. */
  static view(text, line, label) {
    const rows = Source.lines(text).map((pieces, i) =>
      Dom.make(
        "div",
        { class: i === line ? "line here" : "line" },
        pieces.map(([kind, piece]) => (kind ? Dom.make("span", { class: kind }, piece) : piece)),
      ),
    );
    const box = Dom.make("div", { class: "code", tabindex: 0, role: "region", "aria-label": label }, rows);
    if (line > 0) requestAnimationFrame(() => (box.scrollTop = Math.max(0, rows[line].offsetTop - 60)));
    return box;
  }
}
