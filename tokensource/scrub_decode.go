package tokensource

import (
	"bytes"
	"html"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// span is a part of the text that is scrubbed.
type span struct{ from, to int }

// view is that text in one reading, with where each byte of it comes from.
type view struct {
	data  []byte
	spans []span
}

func plain(text string) view {
	v := view{data: []byte(text), spans: make([]span, len(text))}
	for i := range v.spans {
		v.spans[i] = span{i, i + 1}
	}
	return v
}

func (v *view) add(c byte, at span) {
	v.data = append(v.data, c)
	v.spans = append(v.spans, at)
}

// decoders return what a view decodes to, an empty view where it is not in that
// encoding. They are tried one by one, not all in one pass: a secret that
// itself holds %25 or &amp; is found in JSON only if those are left alone. For
// the encodings in groups, each phase is one: a secret may stand anywhere in
// what was encoded.
var decoders = []func(view) view{
	func(v view) view { return unescape(v, "%", percentEscape) },
	func(v view) view { return unescape(v, "+%", formEscape) },
	func(v view) view { return unescape(v, `\`, backslashEscape) },
	func(v view) view { return unescape(v, "&", htmlEscape) },
	func(v view) view { return regroup(v, &base64Digits, 6, 0) },
	func(v view) view { return regroup(v, &base64Digits, 6, 1) },
	func(v view) view { return regroup(v, &base64Digits, 6, 2) },
	func(v view) view { return regroup(v, &base64Digits, 6, 3) },
	func(v view) view { return regroup(v, &hexDigits, 4, 0) },
	func(v view) view { return regroup(v, &hexDigits, 4, 1) },
}

// unescape returns v with its escapes resolved, an empty view where the first
// of the marks does not occur. escape gets what begins with one of them, and
// returns what that stands for and how long it is; 0 where it is no escape.
func unescape(v view, marks string, escape func([]byte) (string, int)) view {
	if bytes.IndexByte(v.data, marks[0]) < 0 {
		return view{}
	}
	decoded := view{data: make([]byte, 0, len(v.data)), spans: make([]span, 0, len(v.data))}
	for i := 0; i < len(v.data); {
		length := 0
		var meant string
		if strings.IndexByte(marks, v.data[i]) >= 0 {
			meant, length = escape(v.data[i:])
		}
		if length == 0 {
			decoded.add(v.data[i], v.spans[i])
			i++
			continue
		}
		whole := span{v.spans[i].from, v.spans[i+length-1].to}
		for _, c := range []byte(meant) {
			decoded.add(c, whole)
		}
		i += length
	}
	return decoded
}

func percentEscape(data []byte) (string, int) {
	if c, ok := hexNumber(data, 1, 2); ok {
		return string([]byte{byte(c)}), 3
	}
	return "", 0
}

func formEscape(data []byte) (string, int) {
	if data[0] == '+' {
		return " ", 1
	}
	return percentEscape(data)
}

// backslashEscape knows JSON's escapes, and \x as of a Python repr.
func backslashEscape(data []byte) (string, int) {
	if len(data) < 2 {
		return "", 0
	}
	switch data[1] {
	case 'u':
		return unicodeEscape(data)
	case 'x':
		c, ok := hexNumber(data, 2, 2)
		if !ok {
			return "", 0
		}
		return string([]byte{byte(c)}), 4
	}
	if i := strings.IndexByte(`"\/'bfnrt`, data[1]); i >= 0 {
		return "\"\\/'\b\f\n\r\t"[i : i+1], 2
	}
	return "", 0
}

func unicodeEscape(data []byte) (string, int) {
	r, ok := hexNumber(data, 2, 4)
	if !ok {
		return "", 0
	}
	if utf16.IsSurrogate(r) && bytes.HasPrefix(data[6:], []byte(`\u`)) {
		if low, ok := hexNumber(data, 8, 4); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
			return string(utf16.DecodeRune(r, low)), 12
		}
	}
	return string(r), 6
}

func htmlEscape(data []byte) (string, int) {
	const longest = 40 // of names; and no number needs more
	data = data[:min(len(data), longest)]
	end := 1 + bytes.IndexFunc(data[1:], func(r rune) bool {
		return r != '#' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	})
	if end == 0 || data[end] != ';' {
		return "", 0
	}
	written := string(data[:end+1])
	meant := html.UnescapeString(written)
	if meant == written {
		return "", 0
	}
	return meant, len(written)
}

// hexNumber reads the digits at from.
func hexNumber(data []byte, from, digits int) (rune, bool) {
	if len(data) < from+digits {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[from:from+digits]), 16, 32)
	return rune(n), err == nil
}

// digits maps a byte to its value in an encoding, plus 1; 0 is no digit.
type digits [256]byte

// base64Digits are those of both alphabets, and hexDigits of both cases.
var (
	base64Digits = newDigits("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
	hexDigits = newDigits("0123456789abcdef", "0123456789ABCDEF")
)

func newDigits(alphabets ...string) (d digits) {
	for _, alphabet := range alphabets {
		for i := range len(alphabet) {
			d[alphabet[i]] = byte(i + 1)
		}
	}
	return d
}

// regroup returns the bytes that each run of digits in v encodes, a digit
// being width bits, where the first skip digits of the run belong to something
// else. A run goes on behind a line break.
func regroup(v view, d *digits, width, skip int) view {
	var decoded view
	for i := 0; i < len(v.data); i++ {
		start := i
		for i < len(v.data) && (d[v.data[i]] != 0 || i > start && isLineBreak(v.data[i])) {
			i++
		}
		if (i-start-skip)*width >= 8*minSecret {
			decodeRun(&decoded, v, d, width, start, skip, i)
		}
	}
	return decoded
}

// isLineBreak is true for what stands between the lines of a long encoding
// (RFC 2045, section 6.8).
func isLineBreak(c byte) bool { return c == '\r' || c == '\n' }

// decodeRun appends what v's digits from start to end encode, and a byte that
// keeps it apart from the next run. Base64's padding belongs to the last byte.
func decodeRun(decoded *view, v view, d *digits, width, start, skip, end int) {
	bits, have := uint(0), 0
	before, empty := start, len(decoded.spans)
	for i := start; i < end; i++ {
		if isLineBreak(v.data[i]) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		bits = bits<<width | uint(d[v.data[i]]-1)
		if have += width; have >= 8 {
			have -= 8
			decoded.add(byte(bits>>have), span{v.spans[before].from, v.spans[i].to})
		}
		before = i
	}
	if len(decoded.spans) == empty {
		return
	}
	last := &decoded.spans[len(decoded.spans)-1]
	for ; width == 6 && end < len(v.data) && v.data[end] == '='; end++ {
		last.to = v.spans[end].to
	}
	decoded.add(0, *last)
}
