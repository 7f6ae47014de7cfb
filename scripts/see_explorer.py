"""Take a picture of an exported explorer in headless Chromium, without a GPU.

    python scripts/see_explorer.py runs/map map.png --wait 60

Chromium's software renderer lacks 16-bit floats, which Embedding Atlas asks for: the copy of its
program that is served here keeps its blur in 32 bits. Colours, points and panels are its own.
"""

import argparse
import functools
import http.server
import os
import shutil
import threading

from playwright.sync_api import Route, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
    "--enable-features=Vulkan",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-gpu-watchdog",
]
WIDER = {
    "[`shader-f16`,...e]": "[...e]",
    "enable f16;": "",
    "array<f16>": "array<f32>",
    "= f16(": "= f32(",
    "(e,t,n)=>e*t*n*2)": "(e,t,n)=>e*t*n*4)",  # bytes of the buffer
}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder without a log."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


def widen(route: Route) -> None:
    """Serve the page's program with its 16-bit floats made 32-bit ones."""
    response = route.fetch()
    program = response.text()
    for narrow, wide in WIDER.items():
        program = program.replace(narrow, wide)
    route.fulfill(response=response, body=program)


def main() -> None:
    """Serve the folder, open it, wait until it is drawn, and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="what hf-superfilter explore RUN --export FOLDER wrote")
    parser.add_argument("picture", help="the PNG to write")
    parser.add_argument("--wait", type=float, default=60, help="seconds until it is drawn")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or parser.error("there is no chromium on the PATH")
    os.environ.setdefault("VK_ICD_FILENAMES", "/usr/lib/chromium/vk_swiftshader_icd.json")
    handler = functools.partial(QuietHandler, directory=options.folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.route("**/assets/index-*.js", widen)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_timeout(1_000 * options.wait)
        page.screenshot(path=options.picture)
        browser.close()


if __name__ == "__main__":
    main()
