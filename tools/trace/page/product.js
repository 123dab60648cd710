"use strict";

/** A matrix product in row-major terms, and as cuBLAS was asked for it: bindings/cublas.py tells why they differ. */
const Product = {
  section(trace, row) {
    const sizes = trace.field(row, "sizes");
    if (sizes === undefined) return null;
    const { m, n, k, transpose_b: transposed } = sizes;
    const tensors = trace.field(row, "tensors") ?? {};
    const b = transposed ? `b[${n}, ${k}]ᵀ` : `b[${k}, ${n}]`;
    return Dom.section(
      "The product",
      Dom.make("p", { class: "formula" }, `out[${m}, ${n}] = a[${m}, ${k}] · ${b}`),
      Dom.facts(["out", "a", "b"].map((name) => [name, tensors[name] && Dom.make("code", {}, tensors[name])])),
      Dom.make(
        "p",
        {},
        `As it was asked, column by column: op(A)[${n}, ${k}] · op(B)[${k}, ${m}] = C[${n}, ${m}].`,
      ),
      Product.asked(trace.field(row, "args") ?? {}),
    );
  },

  asked(args) {
    return Dom.table(
      ["argument", "value"],
      Object.entries(args).map(([name, value]) => [
        Dom.make("code", {}, name),
        Dom.make("code", {}, String(value)),
      ]),
      { class: "arguments" },
    );
  },
};
