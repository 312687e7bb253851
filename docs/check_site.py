"""Check the built site: every link within it leads somewhere, and its search finds what it should.

`make docs` calls it after the build. Links to other sites are only listed with `--external`: they need a network.
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
"""What is searched for, and a part of the address of a page that has to be found."""


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, and what it can be linked by."""
        found = dict(attributes)
        self.anchors.update(value for name in ("id", "name") if (value := found.get(name)))
        for name in ("href", "src"):
            if value := found.get(name):
                self.links.append(value)


def broken_links(pages: dict[Path, Page]) -> list[str]:
    """Return a line for each link that leads nowhere."""
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
                broken.append(f"{path.relative_to(SITE)}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(SITE)}: {link} has no such anchor")
    return broken


def failed_searches(browser: str) -> list[str]:
    """Return a line for each search that does not find its page."""
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
                failed.append(f"searching for {words!r} finds {len(found)} pages, and none is {expected}")
        chromium.close()
    return failed


def main() -> None:
    """Check the site, and end with status 1 if something is wrong."""
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
    print("\n".join(problems) or f"{len(pages)} pages: links lead somewhere", end="")
    print("" if problems else ", search works" if browser else "; without a browser, search was not tried")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
