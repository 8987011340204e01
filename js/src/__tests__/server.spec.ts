import { describe, expect, it } from 'vitest';

import { RequestError, Server } from '../server';
import { fakeConnection, sample, type IAsked } from './values';

function makeServer(answer: (asked: IAsked) => Response | Promise<Response>): {
  server: Server;
  asked: IAsked[];
} {
  const { settings, asked } = fakeConnection(answer);
  return { server: new Server(settings), asked };
}

async function failure(answer: () => Response | Promise<Response>): Promise<RequestError> {
  try {
    await makeServer(answer).server.interrupt('s1');
  } catch (error) {
    if (error instanceof RequestError) {
      return error;
    }
    throw error;
  }
  throw new Error('it was answered');
}

describe('Server', () => {
  it('reads the logs and the stacks of a session', async () => {
    const { server, asked } = makeServer(
      ({ path }) => new Response(JSON.stringify({ text: `of ${path}` }))
    );
    expect(await server.logs('s/1')).toBe('of sessions/s%2F1/logs');
    expect(await server.stacks('s/1')).toBe('of sessions/s%2F1/stacks');
    expect(asked.map(({ method }) => method)).toEqual(['GET', 'GET']);
  });

  it('asks for each thing in its own way', async () => {
    const { server, asked } = makeServer(() => new Response(null, { status: 204 }));
    await server.interrupt('s/1');
    await server.restart('s1');
    await server.detach('s1');
    await server.close('s1');
    await server.withdraw('r1');
    await server.retry(null);
    await server.addPool({ name: 'lab', address: 'a:1', token: 't', pin: '', code: '' });
    await server.removePool('my lab');
    expect(asked).toEqual([
      { method: 'POST', path: 'sessions/s%2F1/interrupt', body: {} },
      { method: 'POST', path: 'sessions/s1/restart', body: {} },
      { method: 'POST', path: 'sessions/s1/detach', body: {} },
      { method: 'DELETE', path: 'sessions/s1', body: null },
      { method: 'DELETE', path: 'requests/r1', body: null },
      { method: 'POST', path: 'retry', body: { pool: null } },
      {
        method: 'POST',
        path: 'pools',
        body: { name: 'lab', address: 'a:1', token: 't', pin: '', code: '' }
      },
      { method: 'DELETE', path: 'pools/my%20lab', body: null }
    ]);
  });

  it('reads what was recorded', async () => {
    const { server, asked } = makeServer(
      () => new Response(JSON.stringify({ kind: 'samples', pool: 'lab', samples: [sample()] }))
    );
    expect(await server.samples(59.2, 5, 'lab')).toEqual([sample()]);
    expect(asked[0]?.path).toBe('samples?history_s=60&step_s=5&pool=lab');
  });

  it('carries what the server says about a refusal', async () => {
    const body = { message: 'no such session', hint: 'see `%gpu sessions`', reason: 'GONE' };
    const error = await failure(() => new Response(JSON.stringify(body), { status: 404 }));
    expect(error.problem).toEqual({ message: body.message, hint: body.hint });
    expect(error.reason).toBe('GONE');
  });

  it.each(['<html>', '{}', '[]', '{"message":3}'])('makes do with %s', async text => {
    const error = await failure(() => new Response(text, { status: 502 }));
    expect(error.problem.message).toBe('The Jupyter server answered with status 502');
  });

  it('says so where nobody answers', async () => {
    const error = await failure(() => Promise.reject(new TypeError('Failed to fetch')));
    expect(error.problem.message).toBe('The Jupyter server does not answer');
  });
});
