"""Check the built site: every internal link has a target, and the search finds the expected pages.

`make docs` runs this script after the build. `--external` only lists the links to other sites, since checking them
would need a network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).parent / "_build" / "html"
SEARCHES = {"damping": "strategies/", "replay": "replay.html", "Krylov": "numerics.html", "load_config": "api.html"}
"""Search terms, each with a part of the address of the page that the search must find."""


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Record the links and the anchors of a tag."""
        found = dict(attributes)
        self.anchors.update(value for name in ("id", "name") if (value := found.get(name)))
        for name in ("href", "src"):
            if value := found.get(name):
                self.links.append(value)


def broken_links(pages: dict[Path, Page]) -> list[str]:
    """Return a line for each internal link without a target."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                broken.append(f"{path.relative_to(SITE)}: the target of the link {link} does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(SITE)}: the target of the link {link} has no such anchor")
    return broken


def failed_searches(browser: str) -> list[str]:
    """Return a line for each search that does not find its expected page."""
    from playwright.sync_api import sync_playwright

    failed = []
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.route(lambda address: not address.startswith("file:"), lambda route: route.abort())
        for words, expected in SEARCHES.items():
            page.goto(f"{(SITE / 'search.html').as_uri()}?q={words}")
            page.wait_for_selector("#search-results p.search-summary", timeout=20_000)
            page.wait_for_timeout(1500)
            found = page.eval_on_selector_all("#search-results li a", "all => all.map(one => one.href)")
            if not any(expected in address for address in found):
                failed.append(f"A search for {words!r} finds {len(found)} pages, but not {expected}.")
        chromium.close()
    return failed


def main() -> None:
    """Check the site, and exit with status 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--external", action="store_true", help="list the links to other sites")
    arguments = parser.parse_args()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in SITE.resolve().rglob("*.html")}
    if arguments.external:
        print("\n".join(sorted({link for page in pages.values() for link in page.links if urlsplit(link).scheme})))
        return
    problems = broken_links(pages)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    problems += failed_searches(browser) if browser else []
    print("\n".join(problems) or f"{len(pages)} pages: all internal links have a target", end="")
    print("" if problems else ", the search works" if browser else "; the search was not checked: no browser found")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
