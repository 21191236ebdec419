// Checks src/server/page/markdown.js under Node: what Markdown becomes, that HTML stays text, and
// that hostile texts take time in proportion. usage: node tests/tools/check_markdown.mjs ROOT
import { readFileSync } from "node:fs";

const root = process.argv[2] ?? ".";
const source = readFileSync(`${root}/src/server/page/markdown.js`, "utf8");
const { blockNode, parse, safeAddress } = await import(
  `data:text/javascript;base64,${Buffer.from(source).toString("base64")}`
);

/* As much of a document as the renderer needs, written out as HTML. */
class FakeNode {
  constructor(tag, text) {
    Object.assign(this, { tag, text, attributes: [], children: [] });
  }
  setAttribute(name, value) {
    this.attributes.push(` ${name}="${value}"`);
  }
  append(...nodes) {
    for (const node of nodes)
      this.children.push(node instanceof FakeNode ? node : new FakeNode(null, String(node)));
  }
  appendChild(node) {
    this.children.push(node);
  }
  get html() {
    if (this.tag === null)
      return this.text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const inside = this.children.map((child) => child.html).join("");
    const void_ = this.tag === "br" || this.tag === "hr";
    return `<${this.tag}${this.attributes.join("")}>${void_ ? "" : `${inside}</${this.tag}>`}`;
  }
}
globalThis.document = {
  createElement: (tag) => new FakeNode(tag),
  createTextNode: (text) => new FakeNode(null, text),
};

const link = (href, text) =>
  `<a href="${href}" rel="noopener noreferrer nofollow" target="_blank">${text}</a>`;
const code = (name, text) =>
  `<div class="code"><div class="code-head"><span>${name}</span><button type="button" ` +
  `class="quiet" data-action="copy-code">Copy</button></div><pre tabindex="0" role="region" ` +
  `aria-label="Code, ${name}"><code>${text}</code></pre></div>`;

/* [Markdown, HTML] */
const CASES = [
  ["", ""],
  ["a\nb\n\nc", "<p>a<br>b</p><p>c</p>"],
  ["# A #\n## B\n#no", "<h3>A</h3><h3>B</h3><p>#no</p>"],
  ["*a* _b_ **c** __d__ ***e*** ~~f~~", "<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <em><strong>e</strong></em> <del>f</del></p>"],
  ["**a *b* c** *a **b** c*", "<p><strong>a <em>b</em> c</strong> <em>a <strong>b</strong> c</em></p>"],
  ["**a*b*c**", "<p><strong>a<em>b</em>c</strong></p>"],
  ["snake_case_name 2*3*4 2 * 3 * 4 ** a", "<p>snake_case_name 2*3*4 2 * 3 * 4 ** a</p>"],
  ["*open **both", "<p>*open **both</p>"],
  ["*a **b* c**", "<p><em>a <em><em>b</em> c</em></em></p>"],
  ["\\*a\\* \\(x\\) \\[y\\] \\\\", "<p>*a* \\(x\\) \\[y\\] \\</p>"],
  ["`a*b*` ``c`d`` `open", "<p><code>a*b*</code> <code>c`d</code> `open</p>"],
  ["&lt;b&gt; &amp;amp; &nope;", "<p>&lt;b&gt; &amp;amp; &amp;nope;</p>"],
  ["<b onclick=x>hi</b><!-- c -->", "<p>&lt;b onclick=x&gt;hi&lt;/b&gt;&lt;!-- c --&gt;</p>"],
  ["[a](https://b.c/d_e?f=1 \"t\")", `<p>${link("https://b.c/d_e?f=1", "a")}</p>`],
  ["[a](https://b.c/d_(e))", `<p>${link("https://b.c/d_(e)", "a")}</p>`],
  ["[*a* `b`](http://c.d)", `<p>${link("http://c.d/", "<em>a</em> <code>b</code>")}</p>`],
  ["![a](https://b.c/d.png)", `<p>${link("https://b.c/d.png", "a")}</p>`],
  ["[a](javascript:alert) [b](/c) [d]", "<p>a (javascript:alert) b (/c) [d]</p>"],
  ["https://a.b/c_d. (see http://e.f/g_(h)) <https://i.j>", `<p>${link("https://a.b/c_d", "https://a.b/c_d")}. (see ${link("http://e.f/g_(h)", "http://e.f/g_(h)")}) ${link("https://i.j/", "https://i.j")}</p>`],
  ["[https://a.b](https://c.d)", `<p>${link("https://c.d/", "https://a.b")}</p>`],
  ["mailto:a [m](mailto:a@b.c)", `<p>mailto:a ${link("mailto:a@b.c", "m")}</p>`],
  ["- a\n- b\n  - c\n\n    d\n- e", "<ul><li>a</li><li>b<ul><li><p>c</p><p>d</p></li></ul></li><li>e</li></ul>"],
  ["3. a\n4. b\n   more\n\n5) c", '<ol start="3"><li>a</li><li>b<br>more</li></ol><ol start="5"><li>c</li></ol>'],
  ["1. a\n  - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"],
  ["- [x] a\n- [ ] b", '<ul><li class="task">☑ a</li><li class="task">☐ b</li></ul>'],
  ["text\n- a\n* b", "<p>text</p><ul><li>a</li></ul><ul><li>b</li></ul>"],
  ["in 1986.\nOr\n7. no list", "<p>in 1986.<br>Or<br>7. no list</p>"],
  ["> a\n> > b\n> - c", "<blockquote><p>a</p><blockquote><p>b</p></blockquote><ul><li>c</li></ul></blockquote>"],
  ["---\n***\n- - -", "<hr><hr><hr>"],
  ["```js x\na < b\n\n  c\n```\nd", code("js", "a &lt; b\n\n  c") + "<p>d</p>"],
  ["~~~\n```\n~~~~", code("text", "```")],
  ["```\nopen\n- a", code("text", "open\n- a")],
  ["- a\n  ```\n  b\n    c\n  ```", `<ul><li>a${code("text", "b\n  c")}</li></ul>`],
  ["|a|b|\n|:-:|-:|\n|`1`|x\\|y|\n|2|", '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th class="to-center" scope="col">a</th><th class="to-right" scope="col">b</th></tr></thead><tbody><tr><td class="to-center"><code>1</code></td><td class="to-right">x|y</td></tr><tr><td class="to-center">2</td><td class="to-right"></td></tr></tbody></table></div>'],
  ["a | b\nno table", "<p>a | b<br>no table</p>"],
  ["\u0000\u202e<\ud800>", "<p>\u0000\u202e&lt;\ud800&gt;</p>"],
];

const ADDRESSES = [
  ["https://a.b/", "https://a.b/"], ["HTTP://A.B", "http://a.b/"], ["mailto:a@b", "mailto:a@b"],
  ["javascript:alert(1)", null], [" javascript:x", null], ["java\nscript:x", null],
  ["data:text/html,x", null], ["vbscript:x", null], ["//a.b", null], ["/a", null], ["https://", null],
  ["blob:https://a.b/c", null], ["file:///etc/passwd", null],
];

/* Texts that make careless parsers take the square of their length, or their stack. */
const N = 60000;
const HOSTILE = {
  stars: "*".repeat(N), words: "*a _b ".repeat(N / 6), both: "*a ".repeat(N / 6) + "a* ".repeat(N / 6),
  under: "_a_".repeat(N / 3), brackets: "[".repeat(N), pictures: "![".repeat(N / 2),
  links: "[](".repeat(N / 3), closers: "a]".repeat(N / 2), addresses: "http://".repeat(N / 7),
  ticks: Array.from({ length: 300 }, (_, i) => "`".repeat(i + 1)).join(" "),
  quotes: ">".repeat(N), lists: "- ".repeat(N / 2), items: "- a\n".repeat(N / 4),
  bars: "|".repeat(N) + "\n" + "|-".repeat(N / 2), rows: "a|b\n".repeat(N / 4),
  fence: "```" + " ".repeat(N) + "`", span: "` " + "a".repeat(N) + "`", entities: "&".repeat(N),
  heading: "# " + " #".repeat(N / 2) + "x", rule: "- ".repeat(N / 2) + "x", slashes: "\\".repeat(N),
};

let failed = 0;
function check(name, found, expected) {
  if (found === expected) return;
  failed++;
  console.error(`FAILED: ${JSON.stringify(name)}\n  found    ${found}\n  expected ${expected}`);
}

for (const [text, html] of CASES) {
  const blocks = parse(text);
  check(text, blocks.map((block) => blockNode(block).html).join(""), html);
}
for (const [text, address] of ADDRESSES) check(text, safeAddress(text), address);
check("levels", parse("## a\n# b\n#### c").map((block) => blockNode(block, 2).tag).join(), "h3,h3,h5");
for (const [name, text] of Object.entries(HOSTILE)) {
  const html = parse(text).map((block) => blockNode(block).html).join("");
  check(name, html.includes("<script"), false);
}
/* Every beginning of a text, as it grows, can be shown. */
const whole = CASES.map(([text]) => text).join("\n\n");
for (let end = 0; end <= whole.length; end++)
  for (const block of parse(whole.slice(0, end))) blockNode(block);
/* Soups of marks: only known elements and attributes come out, and only addresses of the web. */
const TAGS = "p h3 h4 h5 h6 em strong del code a br hr ul ol li blockquote div table thead tbody tr th td pre span button";
const ATTRIBUTES = / (href="(https?:\/\/|mailto:)[^"\s]*"|(rel|target|class|start|scope|tabindex|role|aria-label|type|data-action)="[^"]*")/;
const SOUP = ["*", "**", "_", "~~", "`", "```", "[", "](", ")", "![", "<", ">", "<script>", "</p>", "&lt;", "\\", "\n", "\n\n", " ", "  ", "- ", "1. ", "> ", "# ", "|", "|-|", "a", "é", "http://x.y", "javascript:z", "\"", "onload=", "mailto:q", "---", "\t", "\u0000"];
let seed = 1;
const draw = (n) => (seed = (seed * 48271) % 2147483647) % n;
const walk = (node, depth, text) => {
  if (node.tag !== null && !TAGS.split(" ").includes(node.tag)) check(text, node.tag, "a known element");
  for (const one of node.attributes) if (!ATTRIBUTES.test(one)) check(text, one, "a known attribute");
  if (depth > 100) check(text, depth, "less depth");
  for (const child of node.children) walk(child, depth + 1, text);
};
for (let i = 0; i < 4000; i++) {
  const text = Array.from({ length: draw(60) }, () => SOUP[draw(SOUP.length)]).join("");
  for (const block of parse(text)) walk(blockNode(block), 0, text);
}
console.log(`${CASES.length} texts, ${ADDRESSES.length} addresses, ${Object.keys(HOSTILE).length} hostile`);
process.exit(failed ? 1 : 0);
