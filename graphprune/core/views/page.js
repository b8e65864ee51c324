"use strict";
const known = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const net = $("net"), view = $("view"), told = $("told");
const wide = net.viewBox.baseVal.width, high = net.viewBox.baseVal.height;
const all = (what) => [...net.querySelectorAll(what)];
const boxes = all(".b"), cells = all(".c"), wires = all(".e");
const textOf = (n) => `${known.values[known.nodes[n][0]][0]}[${known.nodes[n][1]}]`;
const weights = new Set(known.weights);

// --- zoom: the picture's size changes, and the browser scrolls it ---------------------------

let scale = 1;
function zoom(to, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const least = Math.min(1, view.clientWidth / wide, view.clientHeight / high);
  const next = Math.min(4, Math.max(least, to));
  const left = (view.scrollLeft + x) / scale, top = (view.scrollTop + y) / scale;
  scale = next;
  net.setAttribute("width", wide * scale);
  net.setAttribute("height", high * scale);
  view.scrollTo(left * scale - x, top * scale - y);
}
const fit = () => zoom(Math.min(1.5, (view.clientWidth - 2) / wide));
$("in").onclick = () => zoom(scale * 1.25);
$("out").onclick = () => zoom(scale / 1.25);
$("fit").onclick = fit;
$("whole").onclick = () => zoom(0);
view.addEventListener("keydown", (event) => {
  const step = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (step) zoom(scale * step);
  else if (event.key === "0") fit();
  else return;
  event.preventDefault();
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // without it the picture scrolls
  event.preventDefault();
  const at = view.getBoundingClientRect();
  zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - at.left, event.clientY - at.top);
}, { passive: false });

let from = null, moved = false;
view.addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || event.button) return; // fingers scroll by themselves
  moved = false;
  from = [event.clientX + view.scrollLeft, event.clientY + view.scrollTop];
});
addEventListener("pointermove", (event) => {
  if (!from) return;
  const x = from[0] - event.clientX, y = from[1] - event.clientY;
  moved = moved || Math.hypot(x - view.scrollLeft, y - view.scrollTop) > 4;
  if (moved) { view.classList.add("drag"); view.scrollTo(x, y); }
});
addEventListener("pointerup", () => { from = null; view.classList.remove("drag"); });

// --- lights -----------------------------------------------------------------------------------

function light(nodes, ops = null) { // ops: only wires to these; without them every wire of a node
  const on = new Set(nodes), values = new Set(nodes.map((n) => known.nodes[n][0]));
  net.classList.toggle("lit", on.size > 0);
  const held = new Set();
  for (const cell of cells) {
    const is = on.has(+cell.dataset.n);
    cell.classList.toggle("on", is);
    if (is) held.add(cell.parentNode);
  }
  for (const op of ops || []) held.add(boxes[known.ops[op][3]]);
  for (const box of boxes) { box.classList.toggle("on", held.has(box)); box.classList.remove("hit"); }
  for (const wire of wires) {
    const is = values.has(+wire.dataset.v) && (!ops || ops.has(+wire.dataset.o));
    wire.classList.toggle("on", is);
  }
  const first = boxes.find((box) => held.has(box));
  if (first) show(first);
}
function show(box) {
  const at = box.getBoundingClientRect(), frame = view.getBoundingClientRect();
  view.scrollBy(at.left + at.width / 2 - frame.left - frame.width / 2, at.top - frame.top - 40);
}
function clear() { light([]); $("group").value = $("lock").value = ""; say(); }
function say(...parts) { told.replaceChildren(...parts); }
function make(kind, text = "", ...inside) {
  const made = document.createElement(kind);
  made.textContent = text;
  made.append(...inside);
  return made;
}
function button(text, does) {
  const made = make("button", text);
  made.type = "button";
  made.onclick = does;
  return made;
}
function nodesOfGroup(id) {
  return known.nodes.flatMap((node, n) => (node[2].includes(id) ? [n] : []));
}
function lightGroup(id) {
  $("lock").value = "";
  $("group").value = id;
  const nodes = nodesOfGroup(id), [name, size] = known.groups[id];
  light(nodes);
  const own = nodes.filter((n) => weights.has(known.nodes[n][0])).map(textOf);
  say(make("p", `Group ${id}: ${name}, ${size} indices, in ${own.length} dimensions of weights:`),
    make("ul", "", ...own.map((text) => make("li", text))));
}
$("group").onchange = (event) => (event.target.value ? lightGroup(+event.target.value) : clear());
$("lock").onchange = (event) => {
  if (!event.target.value) return clear();
  $("group").value = "";
  const [reason, nodes] = known.locks[event.target.value];
  light(nodes);
  say(make("p", `Locked, ${reason}:`), make("ul", "", ...nodes.map((n) => make("li", textOf(n)))));
};
$("none").onclick = clear;
addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });

// --- one box ------------------------------------------------------------------------------------

function tell(box) {
  const number = +box.dataset.b, out = [make("p", known.boxes[number])];
  const ops = known.ops.filter((op) => op[3] === number);
  if (ops.length) out.push(make("p", ops.map((op) => `${op[1]} (${op[0]})`).join(", ")));
  const list = make("ul");
  for (const n of new Set([...box.querySelectorAll(".c")].map((cell) => +cell.dataset.n))) {
    const [value, , groups, reasons] = known.nodes[n];
    const item = make("li", reasons.length ? `${textOf(n)}: locked, ${reasons.join("; ")}` : textOf(n));
    for (const id of groups) {
      item.append(button(`group ${id}: ${known.groups[id][0]}`, () => lightGroup(id)));
    }
    if (weights.has(value) && groups.length) {
      item.append(button("why: from here", () => { $("a").value = textOf(n); $("b").focus(); }),
        button("why: to here", () => { $("b").value = textOf(n); ask(); }));
    }
    list.append(item);
  }
  say(...out, list);
}
net.addEventListener("click", (event) => {
  const box = event.target.closest(".b");
  if (!box || moved) return;
  boxes.forEach((other) => other.classList.toggle("hit", other === box));
  tell(box);
});

// --- search -------------------------------------------------------------------------------------

const MOST = 20; // results that are listed
const names = boxes.map((box, number) => {
  const own = [...box.querySelectorAll(".c")].map((cell) => known.values[known.nodes[cell.dataset.n][0]].join(" "));
  const ops = known.ops.filter((op) => op[3] === number).map((op) => `${op[0]} ${op[1]} ${op[2]}`);
  return [known.boxes[number], ...own, ...ops].join(" ").toLowerCase();
});
function found() {
  const text = $("find").value.trim().toLowerCase();
  return text ? boxes.filter((_, number) => names[number].includes(text)) : [];
}
function open(box) { show(box); tell(box); }
$("find").oninput = () => {
  clear();
  const hits = found();
  boxes.forEach((box) => box.classList.toggle("hit", hits.includes(box)));
  if (!$("find").value.trim()) return;
  const list = hits.slice(0, MOST).map((box) => make("li", "", button(known.boxes[box.dataset.b], () => open(box))));
  const more = hits.length > MOST ? `, the first ${MOST} of them` : "";
  say(make("p", `${hits.length} ${hits.length === 1 ? "box" : "boxes"}${more}:`), make("ul", "", ...list));
  if (hits.length) show(hits[0]);
};

// --- why ------------------------------------------------------------------------------------------
// The same search as `Dependencies.reasons`: a further chain takes an operation that no earlier one
// takes, and as few of theirs as can be.

function nodesOf(name) {
  const match = /^(.*)\[(\d+)\]$/.exec(name), base = match ? match[1] : name;
  return known.nodes.flatMap((node, n) => {
    const own = weights.has(node[0]) && known.values[node[0]].some((x) => x === base || x.startsWith(base + "."));
    return own && (!match || node[1] === +match[2]) ? [n] : [];
  });
}
function chains(group, starts, goals) {
  const held = new Set(nodesOfGroup(group)), near = new Map(), used = new Set(), out = [];
  known.couplings.forEach(([, nodes], c) => {
    const met = nodes.filter((n) => held.has(n));
    if (met.length > 1) for (const n of met) near.set(n, [...(near.get(n) || []), [c, met]]);
  });
  const aims = new Set(goals.filter((n) => held.has(n)));
  const dear = held.size + near.size + 1;
  for (;;) {
    const cost = new Map(), back = new Map(), done = new Set();
    const open = starts.filter((n) => held.has(n));
    open.forEach((n) => cost.set(n, 0));
    let last = null;
    while (open.length) {
      let best = 0;
      for (let i = 1; i < open.length; i++) if (cost.get(open[i]) < cost.get(open[best])) best = i;
      const n = open.splice(best, 1)[0];
      if (done.has(n)) continue;
      done.add(n);
      if (aims.has(n)) { last = n; break; }
      for (const [c, met] of near.get(n) || []) {
        const price = cost.get(n) + (used.has(c) ? dear : 1) + 1;
        for (const m of met) {
          if (done.has(m) || (cost.has(m) && cost.get(m) <= price)) continue;
          cost.set(m, price); back.set(m, [n, c]); open.push(m);
        }
      }
    }
    if (last === null) return out;
    const chain = [[last, null]];
    while (back.has(chain[0][0])) { const [n, c] = back.get(chain[0][0]); chain[0][1] = c; chain.unshift([n, null]); }
    const fresh = chain.filter(([, c]) => c !== null && !used.has(c));
    if (out.length && !fresh.length) return out;
    fresh.forEach(([, c]) => used.add(c));
    out.push(chain);
    if (!fresh.length) return out;
  }
}
function ask() {
  const a = $("a").value.trim(), b = $("b").value.trim();
  if (!a || !b) return say(make("p", "Name two layers."));
  const starts = nodesOf(a), goals = nodesOf(b);
  for (const [name, nodes] of [[a, starts], [b, goals]]) {
    if (!nodes.length) { light([]); return say(make("p", `No weight is called ${name} here.`)); }
  }
  const seen = new Set(), lit = new Set(), ops = new Set(), list = make("ol");
  let total = 0;
  known.groups.forEach(([name, size], id) => {
    const found = chains(id, starts, goals), key = JSON.stringify(found);
    if (!found.length || seen.has(key)) return;
    seen.add(key);
    total += found.length;
    found.forEach((chain, number) => {
      chain.forEach(([n, c]) => { lit.add(n); if (c !== null) ops.add(known.couplings[c][0]); });
      if (number >= known.told) return;
      const item = make("li", `both hold the ${size} indices of ${name}:`);
      item.className = "chain";
      chain.forEach(([n, c]) => {
        if (c !== null) {
          const [label, type] = known.ops[known.couplings[c][0]], by = make("div", `${type} (${label})`);
          by.className = "by";
          item.append(by);
        }
        item.append(make("div", textOf(n)));
      });
      list.append(item);
    });
    if (found.length > known.told) list.append(make("li", `and ${found.length - known.told} more by ${name}`));
  });
  $("group").value = $("lock").value = "";
  light([...lit], ops);
  if (!total) return say(make("p", `Nothing couples ${a} and ${b}: no removable axis is common to both.`));
  const many = total === 1 ? "one reason" : `${total} independent reasons`;
  say(make("p", `${a} and ${b} lose the same indices, for ${many}:`), list);
}
$("tools").onsubmit = (event) => {
  event.preventDefault();
  if (document.activeElement === $("find")) { const [hit] = found(); if (hit) open(hit); } else ask();
};

zoom(Math.min(1, Math.max(0.5, (view.clientWidth - 2) / wide)));
view.scrollTo((wide * scale - view.clientWidth) / 2, 0);
if (known.why.length) { [$("a").value, $("b").value] = known.why; ask(); }
