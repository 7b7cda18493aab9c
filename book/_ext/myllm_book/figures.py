"""The drawings of book/figures, with some of their parts lit."""

import html
import re


def light(source: str, lit: list[str]) -> str:
    """Light the parts of a drawing that have these ids."""
    source = re.sub(r"<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE.*?>", "", source, flags=re.DOTALL).strip()
    for name in lit:
        pattern = re.compile(rf'(<\w+)((?:\s[^>]*)?\sid="(?:ch)?{re.escape(name)}")([^>]*)>')
        if not (match := pattern.search(source)):
            raise ValueError(f'nothing in the figure has the id "{name}" or "ch{name}"')
        tag = match[2] + match[3]
        if 'class="' in tag:
            tag = re.sub(r'class="', 'class="lit ', tag, count=1)
        else:
            end = " /" if tag.endswith("/") else ""
            tag = f'{tag.removesuffix("/").rstrip()} class="lit"{end}'
        source = source[: match.start()] + match[1] + tag + ">" + source[match.end() :]
    return source


def inline_svg(source: str, alt: str, lit: list[str], ids: str, role: str = "img") -> str:
    """An SVG file as part of the page: with a text for those who cannot see it, unique ids, lit parts."""
    source = light(source, lit)
    for name in re.findall(r'\sid="([^"]+)"', source):
        source = source.replace(f'id="{name}"', f'id="{ids}-{name}"').replace(f"#{name})", f"#{ids}-{name})")
        source = source.replace(f'href="#{name}"', f'href="#{ids}-{name}"')
    return source.replace("<svg", f'<svg role="{role}" aria-label="{html.escape(alt)}"', 1)
