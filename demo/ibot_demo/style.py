"""How the page looks: a calm theme of its own, with the fonts that the reader's system has."""

import gradio as gr
from gradio.themes.utils import fonts, sizes
from gradio.themes.utils.colors import Color

from ibot_demo.limits import MAX_BYTES

INK = Color(
    name="ink", c50="#f7f7f5", c100="#efeeea", c200="#e2e1db", c300="#cccac2", c400="#a3a198", c500="#7a7870",
    c600="#5b5a54", c700="#42413d", c800="#2b2b29", c900="#1d1d1c", c950="#141413",
)  # fmt: skip
SEA = Color(
    name="sea", c50="#eef6f8", c100="#d5e9ee", c200="#aed4de", c300="#7db8c8", c400="#4a98ad", c500="#2b7d93",
    c600="#20667a", c700="#1c5263", c800="#1a4452", c900="#193a45", c950="#0e262f",
)  # fmt: skip


class Family(fonts.Font):
    """A family of fonts that the reader's system has; Gradio would put its keywords in quotes, where they mean nothing."""

    def __str__(self) -> str:
        return self.name


SYSTEM = [Family(name) for name in ("system-ui", "-apple-system", "'Segoe UI'", "Roboto", "sans-serif")]
MONO = [Family(name) for name in ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")]

CSS = """
.gradio-container { max-width: 1440px !important; margin: 0 auto !important; padding: 1.5rem 1.25rem 3rem !important; }
#title h1 { font-size: 1.5rem; font-weight: 650; letter-spacing: -0.01em; margin: 0; }
#title p { color: var(--body-text-color-subdued); margin: 0.25rem 0 0; max-width: 62ch; }
#card { font-size: 0.85rem; color: var(--body-text-color-subdued); line-height: 1.5; }
.hint { color: var(--body-text-color-subdued); max-width: 75ch; }
.hint p, .says p { margin: 0 0 0.25rem; }
.says { min-height: 1.5em; }
.result .image-container { padding-top: 34px; }
#card { padding: 0 0.75rem; }
[id$="-examples"] .gallery-item { width: 64px; }
.clickable img { cursor: crosshair; }
#too-large { position: fixed; inset: 1rem 1rem auto auto; z-index: 1000; max-width: 24rem; padding: 0.75rem 1rem; color: #fff;
  background: #9a3412; border-radius: 4px; }
footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container { padding: 0.5rem 0 2rem !important; }
  .gradio-container main { padding: 0.5rem 0.75rem !important; }
}
"""


# Gradio refuses a file that is too large, but tells nobody: the page itself looks first
HEAD = """<script>
(() => {
  const most = MAX_BYTES;
  const guard = (event, files) => {
    const large = [...(files || [])].find((file) => file.size > most);
    if (!large) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    if (event.target.type === "file") event.target.value = "";
    document.getElementById("too-large")?.remove();
    const note = Object.assign(document.createElement("div"), { id: "too-large", role: "alert" });
    note.textContent = `${large.name} is larger than ${most >> 20} MB, the most that is taken.`;
    document.body.append(note);
    setTimeout(() => note.remove(), 10000);
  };
  window.addEventListener("change", (event) => guard(event, event.target.files), true);
  window.addEventListener("drop", (event) => guard(event, event.dataTransfer?.files), true);
  window.addEventListener("paste", (event) => guard(event, event.clipboardData?.files), true);
})();
</script>""".replace("MAX_BYTES", str(MAX_BYTES))


def theme() -> gr.themes.Base:
    """Paper and ink with one accent, in light and in dark."""
    made = gr.themes.Base(primary_hue=SEA, secondary_hue=SEA, neutral_hue=INK, radius_size=sizes.radius_sm, font=SYSTEM, font_mono=MONO)
    return made.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="white",
        block_label_background_fill_dark="*neutral_900",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
    )
