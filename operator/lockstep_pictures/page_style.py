"""How a page looks, and how one that is served follows what it shows.

Used by `page`. Invariant: nothing is wider than the window from 320 pixels on (tables scroll in
their own place), and while a page follows no picture goes before the new one is drawn.
"""

from lockstep_pictures import theme

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; font-family: {theme.FONT}; font-size: 15px; line-height: 1.45;
  color: {theme.INK}; background: {theme.PAPER}; }}
main {{ max-width: 78rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0.2rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 0.2rem; padding-top: 0.6rem;
  border-top: 1px solid {theme.RULE}; }}
h3 {{ font-size: 0.95rem; margin: 0 0 0.3rem; overflow-wrap: anywhere; }}
p {{ margin: 0.3rem 0 0.6rem; max-width: 60rem; overflow-wrap: anywhere; }}
.lead, figcaption, caption, footer, dt, small {{ color: {theme.QUIET}; }}
.state {{ font-size: 0.9rem; font-weight: normal; padding: 0.15rem 0.6rem; border-radius: 1rem;
  border: 1px solid currentColor; vertical-align: middle; white-space: nowrap; }}
.state.good {{ color: #00684c; }}
.state.bad {{ color: #a63c00; font-weight: bold; }}
.problem {{ border-left: 4px solid {theme.ALARM}; padding: 0.3rem 0.7rem; background: #fdf3ec; }}
.facts {{ display: grid; gap: 0.6rem 1rem; margin: 0.8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 10.5rem), 1fr)); }}
.facts div {{ border-top: 2px solid {theme.RULE}; padding-top: 0.25rem; min-width: 0; }}
dt {{ font-size: 0.8rem; }}
dd {{ margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }}
small {{ display: block; font-size: 0.8rem; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; list-style: none; padding: 0;
  margin: 0.5rem 0; }}
a {{ color: #005a8e; }}
.figures {{ display: grid; gap: 1.4rem 1.8rem; margin-top: 0.8rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
figure.wide {{ grid-column: 1 / -1; }}
figcaption {{ font-size: 0.85rem; margin-top: 0.2rem; }}
.table {{ overflow: auto; max-height: 32rem; margin-top: 1rem; position: relative; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; padding-bottom: 0.3rem; }}
th, td {{ padding: 0.2rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid {theme.RULE}; font-weight: normal; }}
thead th {{ position: sticky; top: 0; background: {theme.PAPER}; font-weight: bold;
  vertical-align: bottom; }}
.word {{ text-align: left; }}
td.text {{ white-space: normal; min-width: 14rem; max-width: 40rem; overflow-wrap: anywhere; }}
main > details {{ margin-top: 1.5rem; border-top: 1px solid {theme.RULE}; padding-top: 0.6rem; }}
pre {{ overflow-x: auto; background: #f6f6f6; padding: 0.8rem; font-size: 0.8rem; }}
footer {{ margin-top: 2rem; font-size: 0.8rem; }}
#live {{ position: fixed; right: 0.5rem; bottom: 0.5rem; margin: 0; padding: 0.2rem 0.7rem;
  background: {theme.PAPER}; border: 1px solid {theme.RULE}; border-radius: 1rem;
  font-size: 0.8rem; color: {theme.QUIET}; }}
@media print {{
  body {{ font-size: 10pt; }}
  nav, #live, .plot summary {{ display: none !important; }}
  .table {{ max-height: none; overflow: visible; }}
  thead th {{ position: static; }}
  table {{ width: 100%; font-size: 6.5pt; }}
  th, td, td.text {{ white-space: normal; padding: 0.1rem 0.2rem; min-width: 0; }}
  tbody th {{ overflow-wrap: anywhere; }}
  tbody th.word {{ min-width: 3rem; }}
  figure, tr, .facts div {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  .figures {{ grid-template-columns: 1fr 1fr; }}
}}
"""

LIVE = """
let shown = specs();
function say(words) { document.getElementById("live").textContent = words; }
function keep(before, after) {
  for (const plot of after.querySelectorAll(".plot[data-picture]")) {
    const drawn = before.querySelector(`.plot[data-picture="${plot.dataset.picture}"]`);
    if (!drawn) continue;
    drawn.setAttribute("aria-label", plot.getAttribute("aria-label"));
    plot.replaceWith(drawn);
  }
  const places = (tree, what) => [...tree.querySelectorAll(what)];
  const opened = places(before, "details").map((one) => one.open);
  places(after, "details").forEach((one, place) => { one.open = opened[place] ?? false; });
}
async function redraw(plot, spec) {
  const fresh = plot.cloneNode(false);
  const place = document.createElement("div");
  place.style.cssText = "height: 0; overflow: hidden; visibility: hidden";
  plot.after(place);
  place.append(fresh);
  await drawPicture(fresh, spec);
  plot.replaceWith(fresh);
  place.remove();
}
async function take(text) {
  const came = new DOMParser().parseFromString(text, "text/html");
  const specsNow = JSON.parse(came.getElementById("pictures").textContent);
  const before = document.getElementById("content");
  const after = document.adoptNode(came.getElementById("content"));
  const tables = (tree) => [...tree.querySelectorAll(".table")];
  const scrolled = tables(before).map((one) => [one.scrollTop, one.scrollLeft]);
  keep(before, after);
  before.replaceWith(after);
  tables(after).forEach((one, place) => {
    [one.scrollTop, one.scrollLeft] = scrolled[place] ?? [0, 0];
  });
  for (const plot of document.querySelectorAll(".plot[data-picture]")) {
    const name = plot.dataset.picture;
    if (!plot.dataset.drawn) await drawPicture(plot, specsNow[name]);
    else if (JSON.stringify(shown[name]) === JSON.stringify(specsNow[name])) continue;
    else if (plot.matches(":hover")) { specsNow[name] = shown[name]; continue; }
    else await redraw(plot, specsNow[name]);
  }
  shown = specsNow;
  return came.getElementById("live") !== null;
}
async function follow(everyMs) {
  let goes = true;
  while (goes) {
    await new Promise((done) => setTimeout(done, everyMs));
    try {
      const answer = await fetch(location.href, {cache: "no-cache"});
      if (!answer.ok) throw new Error(answer.status);
      goes = await take(await answer.text());
      say(goes ? "live" : "ended");
    } catch (error) {
      say("no answer: this is how it stood last");
    }
  }
}
"""
