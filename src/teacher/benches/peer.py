"""Requests a second of the `openai` client with asyncio, for `peer.rs`, which starts it beside the same server.

`python peer.py BASE_URL CONCURRENCY REQUESTS`; prints requests a second and processor seconds. Nothing is stored.
"""

import asyncio
import sys
import time

import openai


async def main(base_url: str, concurrency: int, requests: int) -> None:
    # As many connections as there are requests at once, and all of them kept: the client's own default keeps 100.
    http_client = openai.DefaultAsyncHttpxClient(
        limits=type(openai.DEFAULT_CONNECTION_LIMITS)(
            max_connections=concurrency, max_keepalive_connections=concurrency
        )
    )
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=3, http_client=http_client)
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            text = f"Question {number}: why is the sky blue, and not violet, though violet light is scattered more?"
            reply = await client.chat.completions.create(
                model="fake-1",
                messages=[{"role": "user", "content": text}],
                temperature=0.7,
                top_p=1.0,
                max_tokens=256,
                seed=1,
            )
            assert reply.choices[0].message.content.startswith("Rayleigh")

    began, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    print(f"{requests / seconds:.1f} {time.process_time() - processor:.3f} {seconds:.3f} openai-{openai.__version__}")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
