"""The frame of a report's page: its style in a light and a dark mode, for a screen and a phone.

Requires nothing. Blue, orange-red and kin are those of Okabe & Ito, which colour-blind readers can tell apart.
"""

GENERATOR = "liminal_hf report"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="liminal_hf report">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --ink: light-dark(#1b1f24, #e8eaed); --ground: light-dark(#ffffff, #16191d); --soft: light-dark(#f3f4f6, #22272d);
  --line: light-dark(#dcdfe3, #3b424a); --grey: light-dark(#5c636b, #a4abb3);
  --blue: light-dark(#0072B2, #56B4E9); --red: light-dark(#D55E00, #F08A43);
}}
* {{ box-sizing: border-box; }}
body {{
  font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 74rem; margin: 0 auto; padding: 1rem 1rem 4rem;
}}
h1 {{ font-size: 1.6rem; margin: 1rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 0 0 .5rem; }} h3 {{ font-size: 1.05rem; margin: 1.2rem 0 .4rem; }}
h4 {{ font-size: 1rem; margin: 0; font-weight: 600; }}
section {{ border-top: 1px solid var(--line); padding-top: 1.2rem; margin-top: 1.8rem; }}
section > p, .methods {{ max-width: 46rem; }}
p {{ margin: .4rem 0; }}
code {{ background: var(--soft); border-radius: .25rem; padding: 0 .25rem; }}
.note {{ border-left: .3rem solid var(--red); padding-left: .6rem; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; }}
.cards div {{ background: var(--soft); border-radius: .5rem; padding: .5rem .7rem; color: var(--grey); }}
.cards b {{ display: block; font-size: 1.4rem; color: var(--ink); font-variant-numeric: tabular-nums; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; }}
dt {{ color: var(--grey); }} dd {{ margin: 0; overflow-wrap: anywhere; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem; }}
svg {{ width: 100%; height: auto; max-width: 28rem; display: block; fill: var(--ink); }}
svg text {{ font-family: "DejaVu Sans", Verdana, system-ui, sans-serif !important; }}
.plane svg {{ max-width: 40rem; }}
.wide {{ overflow-x: auto; margin: .6rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem .2rem 0; text-align: right; white-space: nowrap; }}
th {{ border-bottom: 1px solid var(--grey); font-weight: 600; }}
td {{ border-bottom: 1px solid var(--line); }}
th.words {{ text-align: left; }}
td.words {{ text-align: left; white-space: normal; overflow-wrap: break-word; }}
details {{ margin: .6rem 0; }} summary {{ cursor: pointer; color: var(--blue); }}
.where {{ color: var(--grey); font-size: .9rem; }}
.shares {{ margin: .8rem 0; max-width: 46rem; }}
.shares ul {{ list-style: none; padding: 0; margin: .3rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; }}
.shares i {{ display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .3rem; }}
.stack {{ display: flex; height: 1rem; border-radius: .3rem; overflow: hidden; gap: 1px; margin-top: .3rem; }}
.neutral {{ background: light-dark(#b9bfc6, #6c747d); }} .unclear {{ background: light-dark(#e2e5e9, #394048); }}
.word0 {{ background: #0072B2; }} .word1 {{ background: #56B4E9; }} .word2 {{ background: #D55E00; }}
.word3 {{ background: #E69F00; }} .word4 {{ background: #CC79A7; }} .word5 {{ background: #009E73; }}
.word6 {{ background: #F0E442; }} .word7 {{ background: #8C6BB1; }} .word8 {{ background: #8C564B; }}
.word9 {{ background: #17BECF; }} .word10 {{ background: #7F9F3F; }}
.pairs {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 2.5rem; }}
.text {{
  display: grid; grid-template-columns: 3.5rem 1fr; gap: 0 .6rem; align-items: center;
  border-bottom: 1px solid var(--line); padding: .5rem 0; max-width: 46rem;
}}
.text p, .text small {{ grid-column: 1 / -1; margin: 0; overflow-wrap: anywhere; }}
.text small {{ color: var(--grey); }} .text b {{ font-variant-numeric: tabular-nums; }}
.bar {{ position: relative; height: .7rem; background: var(--soft); border-radius: .35rem; overflow: hidden; }}
.bar::before {{ content: ""; position: absolute; left: 50%; top: 0; bottom: 0; width: 1px; background: var(--grey); }}
.bar span {{ position: absolute; top: .2rem; bottom: .2rem; background: var(--blue); opacity: .55; }}
.bar i {{ position: absolute; top: 0; bottom: 0; width: 3px; margin-left: -1.5px; background: var(--blue); }}
.methods {{ background: var(--soft); border-radius: .5rem; padding: .6rem 1rem; }}
.methods p, .methods li {{ overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
