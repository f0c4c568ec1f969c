// Which names a browser may use for the dashboard.
//
// Without this check, a page anywhere could point its own name at 127.0.0.1 and read the answers: the browser takes both for
// the same site.

const LOOPBACK = ['127.0.0.1', 'localhost', '[::1]'];

export function isOwnAddress(request, { host, port, publicHost }) {
  const allowed = publicHost ? [publicHost] : LOOPBACK.map(name => `${name}:${port()}`);
  return isLoopback(host) || publicHost ? allowed.includes(request.headers.host) : true;
}

export const isLoopback = host => ['127.0.0.1', 'localhost', '::1', '[::1]'].includes(host);
