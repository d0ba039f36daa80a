"use strict";
/* The colour of a box follows the kind of its layer. Colours are Okabe and Ito's, told apart by
   colour-blind people; the kind is also written in the box. */

const Kinds = (() => {
  const FAMILIES = [
    ["attention", "Attention", /attention|rotary|transformer/i],
    ["embedding", "Embedding", /embed|lookup|hashing|text|tokeniz/i],
    ["normalization", "Normalization", /norm/i],
    ["convolution", "Convolution", /conv/i],
    ["dense", "Dense", /dense|einsum|^linear|matmul/i],
    ["recurrent", "Recurrent", /lstm|gru|rnn|bidirectional|timedistributed/i],
    ["activation", "Activation", /relu|elu|softmax|sigmoid|tanh|activation|swish|silu|softplus|^hard/i],
    ["shape", "Pooling and shape", /pool|reshape|flatten|permute|padding|cropping|upsampling|repeatvector|resizing|transpose|squeeze|expand|getitem|slice|split/i],
    ["merge", "Merge", /^(add|subtract|multiply|average|maximum|minimum|concatenate|dot|divide|truedivide)$/i],
  ];
  const OTHER = ["other", "Other"];
  const ENDS = ["end", "Input, output"];
  const GROUP = ["group", "Group of layers"];
  const known = new Map();

  function family(item) {
    if (item.type === "group") return GROUP;
    if (item.type !== "node") return ENDS;
    if (!known.has(item.kind)) {
      known.set(item.kind, FAMILIES.find(([, , pattern]) => pattern.test(item.kind)) || OTHER);
    }
    return known.get(item.kind);
  }

  const STATES = {
    trainable: "trainable",
    frozen: "frozen",
    mixed: "partly frozen",
    none: "no weights",
  };
  const CHANGES = {
    kept: ["=", "kept"],
    new: ["+", "new"],
    dropped: ["−", "dropped"],
    changed: ["~", "changed"],
  };

  return { family, STATES, CHANGES };
})();
