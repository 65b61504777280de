"""Interactive figures: the time from one frame to the next while every control is moved.

For each figure and control, 60 settings one after the other in a headless browser, one in each
frame; printed are the median and the longest time between frames, the share of frames that took
longer than 1/60 s (plus 2 ms for the clock), and how many of the frames brought a new picture: what
takes longer than a frame to compute is computed in slices, and the picture follows when it is done.
"""

from __future__ import annotations

from samkit.paper import interactive
from tools import browser
from tools.interactive import serving

FRAMES = 60
MOVE = """
async ([name, frames]) => {
    const found = {};
    let pictures = 0;
    const drawing = document.querySelector(`#${name} svg[role=img]`);
    new MutationObserver(() => pictures++).observe(drawing, {childList: true});
    const idle = async () => {
        do await new Promise(requestAnimationFrame);
        while (document.querySelector(`#${name} [aria-busy=true]`));
    };
    for (const input of document.querySelectorAll(`#${name} input[type=range]`)) {
        const start = input.value, times = [];
        await idle();
        pictures = 0;
        let before = await new Promise(requestAnimationFrame);
        for (let k = 0; k < frames; k++) {
            input.value = Math.round((k / (frames - 1)) * input.max);
            input.dispatchEvent(new Event("input"));
            const now = await new Promise(requestAnimationFrame);
            times.push(now - before);
            before = now;
        }
        found[input.id.split("-").at(-1)] = [times.sort((a, b) => a - b), pictures];
        input.value = start;
        input.dispatchEvent(new Event("input"));
    }
    return found;
}
"""


def main() -> None:
    with serving() as address, browser.chromium() as chromium:
        print(f"Chromium {chromium.version}, ms from frame to frame")
        page = chromium.new_page()
        page.goto(address)
        for name in interactive.NAMES:
            page.wait_for_selector(f"#{name}[data-mounted]")
            page.evaluate(MOVE, [name, 5])
            for control, (times, pictures) in page.evaluate(MOVE, [name, FRAMES]).items():
                late = sum(t > 1000 / 60 + 2 for t in times) / len(times)
                print(
                    f"{name:16} {control:12} median {times[len(times) // 2]:5.1f}, "
                    f"longest {times[-1]:6.1f}, late {late:4.0%}, pictures {pictures}"
                )


if __name__ == "__main__":
    main()
