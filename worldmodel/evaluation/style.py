"""The style sheet of report.html: light and dark, from phone to desk.

Colours after Okabe and Ito, told apart with any colour vision; lines differ in form as well.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --text: #1d2126; --soft: #5d656f; --grid: #e4e6e9; --fill: #f1f2f4;
  --model: #0067a5; --baseline: #c65102; --logs: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --text: #e6e8eb; --soft: #a0a8b3; --grid: #2c3239; --fill: #1d2228;
    --model: #58b4f0; --baseline: #f0963c; --logs: #98a2b0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
header { max-width: 46em; margin-bottom: 40px; }
.run { margin: 0 0 12px; color: var(--soft); font-size: 14px; overflow-wrap: anywhere; }
.run span::before { content: "· "; }
h1 {
  margin: 0 0 12px; font-size: clamp(20px, 2.6vw, 27px); line-height: 1.32; font-weight: 620;
  text-wrap: pretty;
}
header p:not(.run) { margin: 0 0 8px; font-size: 18px; line-height: 1.5; text-wrap: pretty; }
section { margin-top: 48px; padding-top: 20px; border-top: 1px solid var(--grid); }
h2 { margin: 0 0 16px; font-size: 20px; }
h3 { margin: 28px 0 8px; font-size: 15px; }
h4 { margin: 0 0 2px; font-size: 13px; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 0 0 28px; }
figcaption, .note { max-width: 68ch; margin: 8px 0 0; color: var(--soft); font-size: 14px; }
.grid-of-panels {
  display: grid; gap: 18px 24px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr));
}
.panel { min-width: 0; max-width: 540px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .name { font-size: 13px; font-weight: 600; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); }
.rule { stroke: var(--soft); stroke-dasharray: 1 4; stroke-linecap: round; stroke-width: 1.5; }
.real { --ink: var(--text); } .model { --ink: var(--model); }
.baseline { --ink: var(--baseline); } .logs { --ink: var(--logs); }
.run-0 { --ink: #0072b2; } .run-1 { --ink: #d55e00; } .run-2 { --ink: #009e73; }
.run-3 { --ink: #cc79a7; } .run-4 { --ink: #a58500; } .run-5 { --ink: #56b4e9; }
.line { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
.line.real { stroke-width: 1.6; }
.line.thin { stroke-width: .8; opacity: .4; }
.dashed { stroke-dasharray: 5 4; }
.band { fill: var(--ink); opacity: .16; }
.dot { fill: var(--ink); opacity: .35; }
.interval { stroke: var(--ink); stroke-width: 4; }
.mark { fill: var(--ink); stroke: var(--page); stroke-width: 1.5; }
svg .name.model, svg .name.baseline, svg .name.logs { fill: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; font-size: 14px; }
.key::before {
  content: ""; display: inline-block; width: 18px; height: 3px; margin-right: 7px;
  vertical-align: middle; border-radius: 2px; background: var(--ink);
}
.strip { display: grid; grid-template-columns: repeat(var(--frames), 1fr); gap: 3px; }
.strip span { color: var(--soft); font-size: 11px; text-align: center; }
.moving { width: 100%; max-width: 400px; margin-bottom: 8px; display: block; }
.moving { image-rendering: pixelated; }
.strip img { width: 100%; image-rendering: pixelated; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td {
  padding: 6px 20px 6px 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--grid);
}
th { color: var(--soft); font-weight: 500; }
td b { font-weight: 600; } small { color: var(--soft); font-size: 13px; }
dl {
  display: grid; grid-template-columns: minmax(96px, max-content) 1fr; gap: 4px 20px;
  margin: 0 0 16px; font-size: 14px;
}
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 12px; font-size: 14px; } summary { cursor: pointer; color: var(--soft); }
pre {
  overflow-x: auto; padding: 12px; background: var(--fill); border-radius: 6px;
  font-size: 12.5px; line-height: 1.45;
}
@media (max-width: 560px) {
  th, td { padding-right: 14px; font-size: 13px; }
  td small { display: block; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
"""
