import { ServerConnection } from '@jupyterlab/services';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Feed, SILENCE_MS } from '../feed';
import { pageState, sample } from './values';

/** The server's end of the WebSockets that the feed opens. */
class FakeSocket {
  static opened: FakeSocket[] = [];

  static get last(): FakeSocket {
    const last = FakeSocket.opened.at(-1);
    if (last === undefined) {
      throw new Error('nothing was opened');
    }
    return last;
  }

  readonly readyState = 1;
  readonly heard: unknown[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  closed = false;

  constructor(readonly url: string) {
    FakeSocket.opened.push(this);
  }

  close(): void {
    this.closed = true;
  }

  say(state = pageState()): void {
    this.onmessage?.({ data: JSON.stringify({ kind: 'state', ...state }) });
  }

  send(text: string): void {
    this.heard.push(JSON.parse(text));
  }

  cut(): void {
    this.onclose?.();
  }
}

let answer: () => Promise<Response>;
let requests: Request[];

function makeFeed(token = 'secret'): Feed {
  return new Feed(
    ServerConnection.makeSettings({
      baseUrl: 'http://jupyter/base/',
      wsUrl: 'ws://jupyter/base/',
      token,
      appendToken: true,
      WebSocket: FakeSocket as unknown as typeof WebSocket,
      fetch: async (request: RequestInfo) => {
        requests.push(request as Request);
        return answer();
      }
    })
  );
}

/** Lets what waits for an answer go on. */
async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.opened = [];
  requests = [];
  answer = () => Promise.resolve(new Response('{}'));
});

afterEach(() => {
  vi.useRealTimers();
});

describe('Feed', () => {
  it('opens nothing before it is started, and one connection then', () => {
    const feed = makeFeed();
    expect(FakeSocket.opened).toHaveLength(0);
    feed.hold();
    feed.hold();
    expect(FakeSocket.opened).toHaveLength(1);
    expect(FakeSocket.last.url).toBe(
      'ws://jupyter/base/nbgpu/api/events?samples_s=60&token=secret'
    );
  });

  it('sends no token where there is none', () => {
    makeFeed('').hold();
    expect(FakeSocket.last.url).toBe('ws://jupyter/base/nbgpu/api/events?samples_s=60');
  });

  it('passes the state on, with the offset to the clock of the server', () => {
    vi.setSystemTime(5_000_000);
    const feed = makeFeed();
    const seen = vi.fn();
    feed.changed.connect(() => {
      seen(feed.status);
    });
    feed.hold();
    const state = pageState({ sent_unix_s: 5_030 });
    FakeSocket.last.say(state);
    expect(seen).toHaveBeenCalledExactlyOnceWith({ state, problem: null, clockOffset_s: 30 });
  });

  it('connects again after a cut, ever more slowly, and fast again after a word', () => {
    const feed = makeFeed();
    feed.hold();
    for (const wait_ms of [500, 1000, 2000, 4000, 8000, 15_000, 15_000]) {
      const before = FakeSocket.opened.length;
      FakeSocket.last.cut();
      vi.advanceTimersByTime(wait_ms - 1);
      expect(FakeSocket.opened).toHaveLength(before);
      vi.advanceTimersByTime(1);
      expect(FakeSocket.opened).toHaveLength(before + 1);
    }
    FakeSocket.last.say();
    const before = FakeSocket.opened.length;
    FakeSocket.last.cut();
    vi.advanceTimersByTime(500);
    expect(FakeSocket.opened).toHaveLength(before + 1);
  });

  it('keeps the state through a cut, says what is wrong, and takes it back', async () => {
    const feed = makeFeed();
    feed.hold();
    FakeSocket.last.say();
    answer = () => Promise.reject(new TypeError('Failed to fetch'));
    FakeSocket.last.cut();
    await settle();
    expect(feed.status.state).toEqual(pageState());
    expect(feed.status.problem?.message).toBe('The Jupyter server does not answer');

    vi.advanceTimersByTime(500);
    FakeSocket.last.say();
    expect(feed.status.problem).toBeNull();
  });

  it.each([
    [404, 'The server part of nbgpu is not enabled'],
    [403, 'The Jupyter server does not accept this page any more'],
    [200, 'The connection to the Jupyter server was cut']
  ])('explains a cut by the answer %i', async (status, message) => {
    answer = () => Promise.resolve(new Response('{}', { status }));
    const feed = makeFeed();
    feed.hold();
    FakeSocket.last.cut();
    await settle();
    expect(feed.status.problem?.message).toBe(message);
    expect(requests[0]?.url).toContain('http://jupyter/base/nbgpu/api/state?settle_s=0');
  });

  it('drops an explanation that comes after the connection is back', async () => {
    let explain: (response: Response) => void = () => undefined;
    answer = () => new Promise(resolve => (explain = resolve));
    const feed = makeFeed();
    feed.hold();
    FakeSocket.last.cut();
    vi.advanceTimersByTime(500);
    FakeSocket.last.say();
    explain(new Response('{}', { status: 404 }));
    await settle();
    expect(feed.status.problem).toBeNull();
  });

  it('takes a silent connection for dead', () => {
    const feed = makeFeed();
    feed.hold();
    const silent = FakeSocket.last;
    silent.say();
    vi.advanceTimersByTime(SILENCE_MS - 1);
    expect(silent.closed).toBe(false);
    vi.advanceTimersByTime(1);
    expect(silent.closed).toBe(true);
    vi.advanceTimersByTime(500);
    expect(FakeSocket.opened).toHaveLength(2);
  });

  it('stays connected to a server that repeats itself', () => {
    const feed = makeFeed();
    feed.hold();
    for (let repeat = 0; repeat < 10; repeat++) {
      vi.advanceTimersByTime(SILENCE_MS / 3);
      FakeSocket.last.say();
    }
    expect(FakeSocket.opened).toHaveLength(1);
  });

  it('does nothing any more once nobody holds it, and goes on when somebody does', () => {
    const feed = makeFeed();
    const holds = [feed.hold(), feed.hold()];
    const first = FakeSocket.last;
    holds[0]?.dispose();
    holds[0]?.dispose();
    expect(first.closed).toBe(false);
    expect(feed.isRunning).toBe(true);
    holds[1]?.dispose();
    expect(feed.isRunning).toBe(false);
    expect(first.closed).toBe(true);
    first.cut();
    vi.advanceTimersByTime(10 * SILENCE_MS);
    expect(FakeSocket.opened).toHaveLength(1);
    feed.hold();
    expect(FakeSocket.opened).toHaveLength(2);
  });

  it('passes samples on as they are, and lets them keep the connection alive', () => {
    const feed = makeFeed();
    const seen = vi.fn();
    feed.sampled.connect((_, batch) => {
      seen(batch);
    });
    feed.hold();
    const batch = { pool: 'lab', samples: [sample()] };
    for (let repeat = 0; repeat < 4; repeat++) {
      vi.advanceTimersByTime(SILENCE_MS / 2);
      FakeSocket.last.onmessage?.({ data: JSON.stringify({ kind: 'samples', ...batch }) });
    }
    expect(seen).toHaveBeenCalledTimes(4);
    expect(seen).toHaveBeenLastCalledWith(batch);
    expect(FakeSocket.opened).toHaveLength(1);
    expect(feed.status.state).toBeNull();
  });

  it('says when it wants no samples, and says so again on a new connection', () => {
    const feed = makeFeed();
    feed.hold();
    feed.setPaused(true);
    feed.setPaused(true);
    expect(FakeSocket.last.heard).toEqual([{ kind: 'pause' }]);
    FakeSocket.last.cut();
    vi.advanceTimersByTime(500);
    FakeSocket.last.onopen?.();
    expect(FakeSocket.last.heard).toEqual([{ kind: 'pause' }]);
    feed.setPaused(false);
    expect(FakeSocket.last.heard).toEqual([{ kind: 'pause' }, { kind: 'resume' }]);
  });

  it('connects at once on demand where the page lost the server', async () => {
    const feed = makeFeed();
    feed.hold();
    FakeSocket.last.cut();
    await settle();
    expect(FakeSocket.opened).toHaveLength(1);
    feed.reconnect();
    expect(FakeSocket.opened).toHaveLength(2);
    vi.advanceTimersByTime(500);
    expect(FakeSocket.opened).toHaveLength(2);
  });
});
