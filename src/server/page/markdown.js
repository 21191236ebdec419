/* Markdown as language models write it, from text to a tree and from the tree to DOM nodes. Markup
 * of other kinds is text: no string ever becomes HTML. Both steps take time in proportion to the
 * text, whatever it holds, and neither nests deeper than MAX_DEPTH. */

const MAX_DEPTH = 12;
const MAX_LINK = 2000;
const MAX_PARENTHESES = 32;
const MAX_COLUMNS = 50;

/* --- Blocks: lines to {type, ...}, each top one with the source it was made from ------------- */

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|\t|$)/;

/** The blocks of a text: [{type, source, ...}]. */
export function parse(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  return parseBlocks(lines, 0);
}

function parseBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at++;
      continue;
    }
    const [block, next] = parseBlock(lines, at, depth);
    if (depth === 0) block.source = lines.slice(at, next).join("\n");
    blocks.push(block);
    at = next;
  }
  return blocks;
}

/* One block from line `at`, which is not blank: [block, the line behind it]. */
function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    let text = line.slice(heading[0].length).trim();
    if (text.endsWith("#")) text = text.replace(/(^|[ \t])#+$/, "").trimEnd();
    return [{ type: "heading", level: heading[1].length, children: parseInline(text) }, at + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return parseQuote(lines, at, depth);
    if (ITEM.test(line)) return parseList(lines, at, depth);
  }
  const table = parseTable(lines, at);
  return table ?? parseParagraph(lines, at, depth);
}

function parseFence(lines, at, fence) {
  const indent = lines[at].length - lines[at].trimStart().length;
  const mark = fence[1];
  const code = [];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const text = lines[next].trim();
    if (text.length >= mark.length && text[0] === mark[0] && text === mark[0].repeat(text.length))
      break;
    code.push(withoutIndent(lines[next], indent));
  }
  const language = fence[2].trim().split(/\s/)[0].slice(0, 40);
  return [{ type: "code", language, text: code.join("\n") }, Math.min(next + 1, lines.length)];
}

function withoutIndent(line, indent) {
  let n = 0;
  while (n < indent && line[n] === " ") n++;
  return line.slice(n);
}

function parseQuote(lines, at, depth) {
  const inner = [];
  let next = at;
  for (; next < lines.length && QUOTE.test(lines[next]); next++)
    inner.push(lines[next].replace(QUOTE, ""));
  return [{ type: "quote", children: parseBlocks(inner, depth + 1) }, next];
}

/* Whether a line begins a block that ends the paragraph before it. */
function interrupts(line) {
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  return item !== null && item[0].length < line.length && !/^(?!1[.)])\d/.test(item[2]);
}

function parseList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const kind = first[2].at(-1);
  const list = { type: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, loose: false };
  list.items = [];
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || item[2].at(-1) !== kind || RULE.test(lines[next])) break;
    next = parseItem(lines, next, item, depth, list);
  }
  return [list, next];
}

/* One item and what is indented below it; returns the line behind it. */
function parseItem(lines, at, item, depth, list) {
  const indent = item[1].length + item[2].length + Math.max(1, item[3].length);
  const inner = [lines[at].slice(item[0].length)];
  let next = at + 1;
  let blank = 0;
  for (; next < lines.length; next++) {
    const line = lines[next];
    if (line.trim() === "") {
      blank++;
      inner.push("");
      continue;
    }
    const own = line.length - line.trimStart().length;
    const below = own >= indent || (own >= 2 && ITEM.test(line.slice(2)));
    if (!below && (blank || interrupts(line) || ITEM.test(line))) break;
    if (blank && own < indent + 2) list.loose = true; /* further in, it is the inner list's */
    blank = 0;
    inner.push(below ? withoutIndent(line, indent) : line);
  }
  inner.length -= blank;
  if (blank && next < lines.length && ITEM.exec(lines[next])?.[2].at(-1) === item[2].at(-1))
    list.loose = true;
  const task = /^\[([ xX])\] /.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const entry = { children: parseBlocks(inner, depth + 1) };
  if (task) entry.done = task[1] !== " ";
  list.items.push(entry);
  return next;
}

/* The cells of a row; a backslash keeps a bar from ending one. */
function splitRow(line) {
  const cells = [];
  let cell = "";
  const text = line.trim();
  for (let i = text[0] === "|" ? 1 : 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") cell += text[++i];
    else if (text[i] !== "|") cell += text[i];
    else {
      cells.push(cell.trim());
      cell = "";
    }
  }
  if (cell.trim() !== "") cells.push(cell.trim());
  return cells;
}

function parseTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !lines[at + 1].includes("-")) return null;
  const marks = splitRow(lines[at + 1]);
  const head = splitRow(lines[at]);
  if (marks.length !== head.length || head.length > MAX_COLUMNS) return null;
  if (!marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const aligned = marks.map((mark) => {
    if (mark.endsWith(":")) return mark.startsWith(":") && mark.length > 1 ? "center" : "right";
    return "left";
  });
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|"); next++) {
    const cells = splitRow(lines[next]);
    rows.push(head.map((_, i) => parseInline(cells[i] ?? "")));
  }
  return [{ type: "table", aligned, head: head.map((cell) => parseInline(cell)), rows }, next];
}

function parseParagraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && lines[next].trim() !== "") {
    if (depth < MAX_DEPTH && interrupts(lines[next])) break;
    if (parseTable(lines, next)) break;
    next++;
  }
  const text = lines.slice(at, next).map((line) => line.trimStart()).join("\n");
  return [{ type: "paragraph", children: parseInline(text) }, next];
}

/* --- Inline: text to [string | {type, children, ...}] ---------------------------------------- */

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const ESCAPABLE = /[!"#$%&'*+,\-./:;<=>?@\\^_`{|}~]/; /* not ()[]: \( and \[ begin formulas */
const SPACE = /\s/;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/* Open frames of emphasis and links lie on a stack, each with what has come since it opened. A
 * closing mark takes the nearest frame of its kind and turns those above it back into text. */
export function parseInline(text) {
  const state = { text, at: 0, stack: [{ mark: "", children: [] }], open: {}, unclosed: new Set() };
  while (state.at < text.length) step(state);
  while (state.stack.length > 1) dropFrame(state, state.stack.length - 1);
  return state.stack[0].children;
}

function add(state, node) {
  const children = state.stack.at(-1).children;
  if (typeof node === "string" && typeof children.at(-1) === "string")
    children[children.length - 1] += node;
  else children.push(node);
}

function pushFrame(state, mark, count, closes = false) {
  if (state.stack.length > MAX_DEPTH) {
    add(state, mark.repeat(count));
    return;
  }
  state.stack.push({ mark, count, closes, children: [] });
  state.open[mark] = (state.open[mark] ?? 0) + 1;
}

/* Turns frame i back into text in the frame below it. */
function dropFrame(state, i) {
  const [frame] = state.stack.splice(i, 1);
  state.open[frame.mark]--;
  const below = state.stack[i - 1].children;
  below.push(frame.mark.repeat(frame.count), ...mergeable(frame.children));
}

/* A guard for the argument list above: long runs of nodes come in one array each. */
function mergeable(children) {
  return children.length < 10000 ? children : [{ type: "span", children }];
}

const PLAIN = /[^\\`*_~[\]!<&h\n]+|h(?!ttps?:\/\/)/y;

function step(state) {
  const { text, at } = state;
  PLAIN.lastIndex = at;
  const plain = PLAIN.exec(text);
  if (plain) {
    state.at += plain[0].length;
    add(state, plain[0]);
    return;
  }
  const c = text[at];
  if (c === "\n") return stepNewline(state);
  if (c === "\\") return stepEscape(state);
  if (c === "`") return stepCode(state);
  if (c === "*" || c === "_" || c === "~") return stepEmphasis(state, c);
  if (c === "[" || (c === "!" && text[at + 1] === "[")) {
    const mark = c === "!" ? "![" : "[";
    state.at += mark.length;
    return pushFrame(state, mark, 1);
  }
  if (c === "]") return stepLinkEnd(state);
  if (c === "&") return stepEntity(state);
  if (c === "h" || c === "<") return stepAutolink(state);
  state.at++;
  return add(state, c);
}

function stepNewline(state) {
  const children = state.stack.at(-1).children;
  if (typeof children.at(-1) === "string")
    children[children.length - 1] = children.at(-1).trimEnd();
  state.at++;
  add(state, { type: "break" });
}

function stepEscape(state) {
  const next = state.text[state.at + 1];
  if (next === "\n") {
    state.at++;
    stepNewline(state);
  } else if (next !== undefined && ESCAPABLE.test(next)) {
    state.at += 2;
    add(state, next);
  } else {
    state.at++;
    add(state, "\\");
  }
}

function runLength(text, at, c) {
  let n = 1;
  while (text[at + n] === c) n++;
  return n;
}

/* A run of backticks to the next of the same length. Once one of a length has no partner, none
 * that comes later has. */
function stepCode(state) {
  const { text, at } = state;
  const n = runLength(text, at, "`");
  const start = at + n;
  if (!state.unclosed.has(n)) {
    for (let end = text.indexOf("`", start); end >= 0; ) {
      const m = runLength(text, end, "`");
      if (m === n) {
        let code = text.slice(start, end).replaceAll("\n", " ");
        if (code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
        state.at = end + n;
        return add(state, { type: "codespan", text: code });
      }
      end = text.indexOf("`", end + m);
    }
    state.unclosed.add(n);
  }
  state.at = start;
  return add(state, "`".repeat(n));
}

/* Which sides of a run of marks touch a word decides whether it may open or close. */
function flanks(text, at, n, c) {
  const before = at === 0 ? " " : text[at - 1];
  const after = at + n >= text.length ? " " : text[at + n];
  const spaceBefore = SPACE.test(before);
  const spaceAfter = SPACE.test(after);
  const markBefore = PUNCTUATION.test(before);
  const markAfter = PUNCTUATION.test(after);
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  if (c !== "_") return { opens: left, closes: right };
  return { opens: left && (!right || markBefore), closes: right && (!left || markAfter) };
}

function stepEmphasis(state, c) {
  const { text, at } = state;
  let n = runLength(text, at, c);
  state.at += n;
  const product = c === "*" && n === 1 && /\d/.test(text[at - 1]) && /\d/.test(text[at + 1]);
  if (product || (c === "~" && n !== 2)) return add(state, c.repeat(n));
  const { opens, closes } = flanks(text, at, n, c);
  while (closes && n > 0 && state.open[c] > 0) {
    const used = closeEmphasis(state, c, n, opens);
    if (!used) break;
    n -= used;
  }
  if (n === 0) return undefined;
  if (opens) return pushFrame(state, c, n, closes);
  return add(state, c.repeat(n));
}

/* Closes the nearest frame of this mark with one mark or two; returns how many. None when either
 * run could be at both ends and their lengths add up to a multiple of 3 (CommonMark, rule 9), as
 * at the first star inside **a*b*c**. */
function closeEmphasis(state, c, n, opens) {
  let i = state.stack.length - 1;
  while (state.stack[i].mark !== c) i--;
  const frame = state.stack[i];
  if ((opens || frame.closes) && (n + frame.count) % 3 === 0 && n % 3 !== 0) return 0;
  while (state.stack.length - 1 > i) dropFrame(state, i + 1);
  const used = n >= 2 && frame.count >= 2 ? 2 : 1;
  const type = c === "~" ? "deleted" : used === 2 ? "strong" : "emphasis";
  const node = { type, children: frame.children };
  frame.count -= used;
  if (frame.count > 0) {
    frame.children = [node];
  } else {
    state.stack.pop();
    state.open[c]--;
    add(state, node);
  }
  return used;
}

/* The address of a link, and nothing that would run when it is followed; else null. */
export function safeAddress(text) {
  if (!/^(https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/* "(address "title")" at `at`: [address, the place behind it], or null. */
function parseTarget(text, at) {
  if (text[at] !== "(") return null;
  const end = Math.min(text.length, at + MAX_LINK);
  let deep = 0;
  let i = at + 1;
  let address = "";
  for (; i < end; i++) {
    const c = text[i];
    if (SPACE.test(c) || (c === ")" && deep === 0)) break;
    if (c === "(" && ++deep > MAX_PARENTHESES) return null;
    if (c === ")") deep--;
    address += c;
  }
  const title = /[ \n]+(?:"[^"\n]{0,300}"|'[^'\n]{0,300}') *(?=\))/y;
  title.lastIndex = i;
  i += title.exec(text)?.[0].length ?? 0;
  return text[i] === ")" ? [address.replace(/^<(.*)>$/, "$1"), i + 1] : null;
}

function stepLinkEnd(state) {
  state.at++;
  let i = state.stack.length - 1;
  if (!(state.open["["] > 0 || state.open["!["] > 0)) return add(state, "]");
  while (state.stack[i].mark !== "[" && state.stack[i].mark !== "![") i--;
  const target = parseTarget(state.text, state.at);
  if (!target) {
    dropFrame(state, i);
    return add(state, "]");
  }
  while (state.stack.length - 1 > i) dropFrame(state, i + 1);
  const frame = state.stack.pop();
  state.open[frame.mark]--;
  state.at = target[1];
  return addLink(state, target[0], frame.children);
}

/* Pictures are links too: the page loads nothing from elsewhere. */
function addLink(state, address, children) {
  const href = safeAddress(address);
  if (href && !state.stack.some((frame) => frame.mark === "["))
    return add(state, { type: "link", href, children: children.length ? children : [href] });
  for (const child of children) add(state, child);
  return add(state, address ? ` (${address})` : "");
}

function stepEntity(state) {
  const found = /&(amp|lt|gt|quot|apos|nbsp|#39);/y;
  found.lastIndex = state.at;
  const match = found.exec(state.text);
  state.at += match ? match[0].length : 1;
  add(state, match ? (ENTITIES[match[1]] ?? "'") : "&");
}

function stepAutolink(state) {
  const { text, at } = state;
  const start = text[at] === "<" ? at + 1 : at;
  const found = /https?:\/\/[^\s<>"'`|]{1,2000}/y;
  found.lastIndex = start;
  let address = found.exec(text)?.[0];
  if (start > at && (!address || text[start + address.length] !== ">")) address = undefined;
  if (address && start === at) address = trimAddress(address);
  const href = address ? safeAddress(address) : null;
  if (!href) {
    state.at++;
    return add(state, text[at]);
  }
  state.at = start + address.length + (start > at ? 1 : 0);
  if (state.stack.some((frame) => frame.mark === "[")) return add(state, address);
  return add(state, { type: "link", href, children: [address] });
}

/* What ends a sentence or a bracket around the address is not part of it. */
function trimAddress(address) {
  let end = address.length;
  let opened = 0;
  for (const c of address) opened += c === "(" ? 1 : c === ")" ? -1 : 0;
  for (; end > 0; end--) {
    const c = address[end - 1];
    if (c === ")" && opened < 0) opened++;
    else if (!/[.,;:!?*_~\]]/.test(c)) break;
  }
  return address.slice(0, end);
}

/* --- DOM ------------------------------------------------------------------------------------- */

const INLINE_TAGS = { emphasis: "em", strong: "strong", deleted: "del", span: "span" };

/** An element with attributes and children (nodes or strings; strings become text). */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value === true ? "" : value);
  node.append(...children);
  return node;
}

function inlineNodes(children) {
  return children.map((child) => {
    if (typeof child === "string") return document.createTextNode(child);
    if (child.type === "break") return element("br");
    if (child.type === "codespan") return element("code", {}, child.text);
    const attributes =
      child.type === "link"
        ? { href: child.href, rel: "noopener noreferrer nofollow", target: "_blank" }
        : {};
    return appendAll(element(INLINE_TAGS[child.type] ?? "a", attributes), inlineNodes(child.children));
  });
}

function appendAll(parent, nodes) {
  for (const node of nodes) parent.appendChild(node);
  return parent;
}

function codeNode(block) {
  const label = block.language || "text";
  return element(
    "div",
    { class: "code" },
    element(
      "div",
      { class: "code-head" },
      element("span", {}, label),
      element("button", { type: "button", class: "quiet", "data-action": "copy-code" }, "Copy"),
    ),
    element(
      "pre",
      { tabindex: "0", role: "region", "aria-label": `Code, ${label}` },
      element("code", {}, block.text),
    ),
  );
}

function tableNode(block) {
  const cells = (row, tag) =>
    row.map((cell, i) =>
      appendAll(
        element(tag, { class: `to-${block.aligned[i]}`, scope: tag === "th" ? "col" : null }),
        inlineNodes(cell),
      ),
    );
  const body = element("tbody");
  for (const row of block.rows) body.append(appendAll(element("tr"), cells(row, "td")));
  return element(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    element("table", {}, element("thead", {}, appendAll(element("tr"), cells(block.head, "th"))), body),
  );
}

function listNode(block) {
  const list = element(block.ordered ? "ol" : "ul", {
    start: block.ordered && block.start !== 1 ? String(block.start) : null,
  });
  for (const item of block.items) {
    const entry = element("li", { class: item.done === undefined ? null : "task" });
    if (item.done !== undefined) entry.append(item.done ? "☑ " : "☐ ");
    for (const child of item.children) {
      const tight = child.type === "paragraph" && !block.loose;
      if (tight) appendAll(entry, inlineNodes(child.children));
      else entry.append(blockNode(child));
    }
    list.append(entry);
  }
  return list;
}

/** The DOM node of a block. Headings go below those of the page: the first one's level, `top`,
 * becomes the third. */
export function blockNode(block, top) {
  switch (block.type) {
    case "heading": {
      const level = Math.max(3, Math.min(6, 3 + block.level - (top ?? block.level)));
      return appendAll(element(`h${level}`), inlineNodes(block.children));
    }
    case "code":
      return codeNode(block);
    case "rule":
      return element("hr");
    case "quote":
      return appendAll(element("blockquote"), block.children.map((child) => blockNode(child)));
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    default:
      return appendAll(element("p"), inlineNodes(block.children));
  }
}

const sources = new WeakMap(); /* by element: of what is shown in it */

/** Shows text in an element. Blocks that are as they were keep their nodes, so that a growing
 * answer costs little and what is selected in it stays so. */
export function show(target, text) {
  const blocks = parse(text);
  const old = sources.get(target) ?? [];
  let same = 0;
  while (same < old.length && same < blocks.length && old[same] === blocks[same].source) same++;
  const top = blocks.find((block) => block.type === "heading")?.level;
  while (target.childNodes.length > same) target.lastChild.remove();
  for (const block of blocks.slice(same)) target.append(blockNode(block, top));
  sources.set(target, blocks.map((block) => block.source));
}
