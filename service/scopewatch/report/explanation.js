"use strict";
// Shows the heat that is chosen, and tells the numbers of the word that is pointed at or focused. Texts are only ever
// set as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pieces = [...document.querySelectorAll(".text .t")];
  const told = document.getElementById("told");
  const picker = document.querySelector("fieldset");
  const values = new Map();
  let shown = data.choices[0];

  const signed = (value) => (value > 0 ? "+" : "") + String(value).replace("-", "\u2212");
  const word = (piece) => piece.textContent.trim() || "white space";
  const element = (name, text, className) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  function show(choice) {
    for (const at of values.keys()) {
      pieces[at].className = "t";
      pieces[at].removeAttribute("title");
    }
    values.clear();
    shown = choice;
    choice.at.forEach((at, number) => {
      const level = choice.level[number];
      pieces[at].className = level ? `t ${level > 0 ? "h" : "l"}${Math.abs(level)}` : "t";
      pieces[at].title = signed(choice.value[number]);
      values.set(at, choice.value[number]);
    });
    document.getElementById("shown").textContent = choice.name;
    document.getElementById("meaning").textContent = choice.meaning;
    const strongest = [...values].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 8);
    document.getElementById("strongest").replaceChildren(...strongest.map(([at, value]) => {
      const line = document.createElement("li");
      line.append(element("bdi", word(pieces[at]).slice(0, 40)), " ", element("span", signed(value), "note"));
      return line;
    }));
  }

  function tell(at) {
    const value = values.get(at);
    const lines = [element("strong", word(pieces[at]).slice(0, 80)), ": "];
    lines.push(value === undefined ? `0 of ${shown.name}` : `${signed(value)} of ${shown.name}`);
    for (const sae of data.saes) {
      const parts = [];
      if (sae.unexplained.length) parts.push(`${Math.round(100 * sae.unexplained[at])} % not explained`);
      for (let n = 0; n < sae.top[at].length; n += 2) {
        const label = sae.labels[sae.top[at][n]];
        parts.push(`${sae.top[at][n]}${label ? ` “${label}”` : ""} ${sae.top[at][n + 1]}`);
      }
      lines.push(element("div", `${sae.name}: ${parts.join(", ") || "nothing fired"}`, "note"));
    }
    told.replaceChildren(...lines);
  }

  function focus(at) {
    if (at < 0 || at >= pieces.length) return;
    document.querySelector('.t[tabindex="0"]')?.setAttribute("tabindex", "-1");
    pieces[at].closest("details")?.setAttribute("open", "");
    pieces[at].tabIndex = 0;
    pieces[at].focus();
  }

  function moved(at, key) {
    const hot = [...values.keys()].sort((a, b) => a - b);
    switch (key) {
      case "ArrowRight": return at + 1;
      case "ArrowLeft": return at - 1;
      case "ArrowDown": return hot.find((one) => one > at) ?? at;
      case "ArrowUp": return hot.findLast((one) => one < at) ?? at;
      default: return -1;
    }
  }

  if (picker && pieces.length) {
    const place = new Map(pieces.map((piece, at) => [piece, at]));
    const over = (event) => place.get(event.target.closest(".t")) ?? -1;
    picker.hidden = false;
    picker.addEventListener("change", (event) => show(data.choices[Number(event.target.value)]));
    for (const text of document.querySelectorAll(".text")) {
      text.addEventListener("mouseover", (event) => over(event) >= 0 && tell(over(event)));
      text.addEventListener("focusin", (event) => over(event) >= 0 && tell(over(event)));
      text.addEventListener("keydown", (event) => {
        const next = over(event) >= 0 ? moved(over(event), event.key) : -1;
        if (next < 0) return;
        event.preventDefault();
        focus(next);
      });
    }
    show(data.choices[Number(picker.querySelector(":checked").value)]);
    const first = pieces.findIndex((piece, at) => values.has(at));
    pieces[Math.max(first, 0)].tabIndex = 0;
  }

  // A place that is linked to may lie in what is folded; paper folds nothing.
  const unfold = () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", "");
  let folded = [];
  addEventListener("hashchange", unfold);
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
  unfold();
})();
