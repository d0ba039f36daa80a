"use strict";
/* Elements and texts. Everything that comes from the scene is put in as text, never as HTML. */

const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") element.textContent = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child) element.append(child);
    return element;
  }

  const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const at = (id) => document.getElementById(id);

  /** 1234567 -> "1,234,567" */
  const number = (value) => Number(value).toLocaleString("en-US");

  /** 1234567 -> "1.2 M" */
  function short(value) {
    for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= unit) {
        const shown = value / unit;
        return `${shown < 100 ? shown.toFixed(1) : Math.round(shown)} ${letter}`;
      }
    }
    return String(value);
  }

  function percent(share) {
    const value = share * 100;
    if (value > 0 && value < 0.1) return "< 0.1 %";
    return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
  }

  const plural = (count, word, words) => `${number(count)} ${count === 1 ? word : words || word + "s"}`;

  /** A name of at most `most` characters: the middle is left out, as names differ at their ends. */
  function middle(text, most) {
    const letters = Array.from(text);
    if (letters.length <= most) return text;
    const start = Math.ceil((most - 1) / 2);
    return letters.slice(0, start).join("") + "…" + letters.slice(letters.length - (most - 1 - start)).join("");
  }

  /** Say something to a screen reader. */
  function say(text) {
    at("status").textContent = text;
  }

  /** Copy a text; where that is not allowed, select it, so that the keyboard can. */
  async function copy(text, code, button) {
    const done = await toClipboard(text);
    if (!done) window.getSelection().selectAllChildren(code);
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  async function toClipboard(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // A page in a notebook or from a disk may not use the clipboard directly.
      const area = html("textarea", { class: "off-screen", "aria-hidden": "true" });
      const before = document.activeElement;
      area.value = text;
      document.body.append(area);
      area.select();
      let done = false;
      try {
        done = document.execCommand("copy");
      } catch {
        done = false;
      }
      area.remove();
      if (before && before.focus) before.focus();
      return done;
    }
  }

  /** A line of code with a button that copies it. */
  function call(text) {
    const code = html("code", { text, tabindex: "0", dir: "ltr" });
    const button = html("button", { class: "copy", type: "button", text: "Copy", "aria-label": `Copy ${text}` });
    button.addEventListener("click", () => copy(text, code, button));
    return html("div", { class: "call" }, code, button);
  }

  return { html, svg, at, number, short, percent, plural, middle, say, call };
})();
