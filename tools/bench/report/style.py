"""The style sheet of the report: system fonts, and light or dark mode as the reader's system has it."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5d6673; --line: #e3e6ea;
  --ours: #c2410c; --peer: #64748b; --good: #15803d; --tint: #fff4ed;
  --p0: #cbd5e1; --p1: #94a3b8; --p2: #60a5fa; --p3: #c2410c; --p4: #15803d; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e8eaed; --soft: #9aa4b2; --line: #2c323a;
    --ours: #fb923c; --peer: #94a3b8; --good: #4ade80; --tint: #2a1d14;
    --p0: #475569; --p1: #64748b; --p2: #3b82f6; --p3: #fb923c; --p4: #4ade80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .3rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 540px), 1fr));
  gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; max-width: 760px; height: auto; display: block; font-family: inherit; }
.grid { stroke: var(--line); } .tick, .axis { fill: var(--soft); font-size: 12px; }
.label { fill: var(--ink); font-size: 12px; stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }
.label.ours { fill: var(--ours); font-weight: 600; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
circle.ours, rect.ours { fill: var(--ours); } circle.peer, rect.peer { fill: var(--peer); }
rect.part0, i.part0 { fill: var(--p0); background: var(--p0); }
rect.part1, i.part1 { fill: var(--p1); background: var(--p1); }
rect.part2, i.part2 { fill: var(--p2); background: var(--p2); }
rect.part3, i.part3 { fill: var(--p3); background: var(--p3); }
rect.part4, i.part4 { fill: var(--p4); background: var(--p4); }
.legend span { margin-right: 1rem; font-size: .85rem; color: var(--soft); white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
small { color: var(--soft); }
tr.ours { background: var(--tint); } td.good { color: var(--good); font-weight: 700; }
"""
