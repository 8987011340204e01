/** The spans of time that sparklines and charts can show. */

export interface IWindow {
  span_s: number;
  label: string;
  /** Where there is little room. */
  short: string;
  /** How far apart recorded samples may be, so that fetching the span stays small. */
  step_s: number;
  /** How often drawings over that span change visibly: a pixel of a chart that is 150 wide. */
  redraw_s: number;
}

export const WINDOWS: readonly IWindow[] = [
  { span_s: 60, label: 'last minute', short: '1 min', step_s: 0, redraw_s: 1 },
  { span_s: 600, label: 'last 10 min', short: '10 min', step_s: 2, redraw_s: 4 },
  { span_s: 3600, label: 'last hour', short: '1 hour', step_s: 5, redraw_s: 20 }
];
