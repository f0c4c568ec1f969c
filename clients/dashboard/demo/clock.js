// Sets the clock of a server that was started with test/clock.c.

import { open } from 'node:fs/promises';

// The clock then shows the time of so many milliseconds ago.
export async function setClock(ago) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(Math.round(-ago * 1000)));
  const file = await open(process.env.BEMI_TEST_CLOCK, 'r+');
  await file.write(bytes, 0, 8, 0);
  await file.close();
}
