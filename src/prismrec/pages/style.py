"""Looks of our pages: light, dark and print, one set of colours by role."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #f3f4f7; --line: #d5d9e0; --quiet: #5b6470; --good: #1d7044; --bad: #a8401c;
  --heuristic: #8b95a1; --baseline: #2f7fbf; --prismrec: #7c4ddb; --incumbent: #c9721a;
  --s0: #7c4ddb; --s1: #2f7fbf; --s2: #c9721a; --s3: #1f8a70; --s4: #6b7480; --s5: #c23b78;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181d; --ink: #e6e9ee; --soft: #1f242b; --line: #3a424d; --quiet: #a3adba;
    --good: #6fcf97; --bad: #f0916b;
    --heuristic: #8e99a6; --baseline: #62a9e3; --prismrec: #a98bf2; --incumbent: #e6a04e;
    --s0: #a98bf2; --s1: #62a9e3; --s2: #e6a04e; --s3: #52c4a5; --s4: #9aa5b2; --s5: #ec7fb0;
  }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 80rem;
  margin: 2rem auto; padding: 0 1.25rem; }
h1 { margin: 0; } h2 { margin: 3rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.75rem 0 .25rem; font-size: 1.05rem; }
p { margin: .4rem 0; max-width: 48rem; } .quiet, figcaption, small { color: var(--quiet); }
code { font-size: .88em; overflow-wrap: anywhere; }
.verdict { border: 1px solid var(--line); border-left: .5rem solid var(--tone); border-radius: .5rem;
  background: var(--soft); padding: .75rem 1.25rem; margin: 1.5rem 0; }
.verdict.yes { --tone: var(--good); } .verdict.no { --tone: var(--bad); }
.verdict h2 { border: 0; margin: 0; padding: 0; color: var(--tone); }
.verdict ul { margin: .4rem 0; padding-left: 1.2rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--soft); border-radius: .5rem; padding: .6rem 1rem; min-width: 8rem; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; } caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { font-weight: 600; vertical-align: bottom; } thead th small { display: block; font-weight: 400; }
thead th.number { white-space: normal; max-width: 9rem; } tbody th { font-weight: 400; min-width: 9rem; }
tr.chosen th, tr.chosen td { background: var(--soft); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number small { display: block; font-size: .72rem; }
th.group { text-align: center; border-left: 1px solid var(--line); }
.good { color: var(--good); } .bad { color: var(--bad); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); gap: 1rem 2rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.small.charts { grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
figure { margin: .5rem 0; overflow-x: auto; } figcaption { font-size: .9rem; }
figure > svg { display: block; width: 100%; height: auto; min-width: 30rem; max-width: 46rem; }
.small figure > svg { min-width: 0; max-width: 26rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: .25rem 0;
  list-style: none; font-size: .9rem; }
.legend svg { width: 1.1em; height: 1.1em; vertical-align: -.15em; margin-right: .35em; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg text.quiet { fill: var(--quiet); }
svg text.chosen { font-weight: 700; } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.4; fill: none; }
svg .heuristic { fill: var(--heuristic); } svg .baseline { fill: var(--baseline); }
svg .prismrec { fill: var(--prismrec); } svg .incumbent { fill: var(--incumbent); }
svg .s0 { --c: var(--s0); } svg .s1 { --c: var(--s1); } svg .s2 { --c: var(--s2); }
svg .s3 { --c: var(--s3); } svg .s4 { --c: var(--s4); } svg .s5 { --c: var(--s5); }
svg .mark { fill: var(--c); } svg .line { stroke: var(--c); stroke-width: 2; fill: none; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; } dt { color: var(--quiet); }
dd { margin: 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --soft: #f3f4f7; --line: #cccccc; --quiet: #444444; }
  body { max-width: none; margin: 0; font-size: 10.5pt; } .scroll, figure { overflow: visible; break-inside: avoid; }
  h2, h3 { break-after: avoid; } table { font-size: 8pt; } th, td { padding: .15rem .3rem; }
  details::details-content { content-visibility: visible; block-size: auto; } summary { display: none; }
}
""".strip()
