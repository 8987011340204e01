/** React's view of time and signals. */

import type { ISignal } from '@lumino/signaling';
import * as React from 'react';

/** Renders the component again whenever the signal emits. */
export function useSignal(signal: ISignal<unknown, unknown>): void {
  const [, setCount] = React.useState(0);
  React.useEffect(() => {
    const onEmit = () => {
      setCount(count => count + 1);
    };
    signal.connect(onEmit);
    return () => {
      signal.disconnect(onEmit);
    };
  }, [signal]);
}

/** The time in seconds since 1970, renewed once an interval. */
export function useNow(interval_ms: number): number {
  const [now_s, setNow] = React.useState(() => Date.now() / 1000);
  React.useEffect(() => {
    const timer = setInterval(() => {
      setNow(Date.now() / 1000);
    }, interval_ms);
    return () => {
      clearInterval(timer);
    };
  }, [interval_ms]);
  return now_s;
}
