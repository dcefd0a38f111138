package tokensource

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	redacted = "[redacted]"

	// minSecret is the length below which a secret would rather be found in
	// words than where it stands.
	minSecret = 4

	// maxScrubbed bounds the work on one text. What is longer explains
	// nothing, and is dropped: cut, it could end in half a secret.
	maxScrubbed = 8 << 10

	// maxDescription is what an operator wants to see of a text, in bytes.
	maxDescription = 300

	// maxLayers is how many encodings a secret may wear, one over the other:
	// Basic credentials are base64 of percent-encoding (RFC 6749, section
	// 2.3.1), and may be quoted from a JSON string.
	maxLayers = 3
)

// scrubber takes secrets out of what a provider said. It does not look for the
// encodings of a secret, of which each has variants and contexts, but decodes
// the text in every way, and takes out what turns into a secret.
type scrubber struct {
	secrets [][]byte // in lower case
}

// minPiece is how long a piece of a secret is that cannot be an ordinary word,
// and mostPieces bounds the work that a long secret makes.
const (
	minPiece   = 8
	mostPieces = 32
)

// minStart is how long the beginning of a secret is at least, beside half of it,
// that is taken for the secret, cut off.
const minStart = 12

// Scrub takes a secret out of a text, in whatever usual encoding it stands
// there.
func Scrub(text, secret string) string { return newScrubber(secret).scrub(text) }

// newScrubber returns a scrubber for secrets. Those shorter than 4 bytes are
// skipped. An answer that repeats a secret carelessly is cut where its own
// format says, so the pieces between such bytes are looked for as well.
func newScrubber(secrets ...string) *scrubber {
	s := &scrubber{}
	for _, secret := range secrets {
		s.add(secret)
		if trimmed := strings.TrimSpace(secret); trimmed != secret { // a file may end in a line break
			s.add(trimmed)
		}
		pieces := 0
		for piece := range strings.FieldsFuncSeq(secret, cutsText) {
			if len(piece) >= minPiece && len(piece) < len(secret) && pieces < mostPieces {
				s.secrets = append(s.secrets, lower([]byte(piece)))
				pieces++
			}
		}
	}
	return s
}

func (s *scrubber) add(secret string) {
	if len(secret) >= minSecret {
		s.secrets = append(s.secrets, lower([]byte(secret)))
	}
}

func cutsText(r rune) bool {
	return r <= ' ' || strings.ContainsRune("&;=+\"'<>#?%\\", r)
}

// error makes the texts of e fit to be shown: without secrets, on one line, and
// short. The order matters: a secret that is cut, or of which a line break
// became a blank, would not be found any more.
func (s *scrubber) error(e *Error) {
	e.Code = cut(s.oneLine(e.Code), maxCode)
	e.Description = shorten(s.oneLine(e.Description))
	e.URI = shorten(s.oneLine(e.URI))
	e.Reason = shorten(s.oneLine(e.Reason))
	e.Audience = shorten(s.oneLine(e.Audience))
}

// oneLine also removes what would turn the direction of a terminal's text.
func (s *scrubber) oneLine(text string) string {
	if len(text) > maxScrubbed {
		return ""
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if isUnshowable(r) {
			return ' '
		}
		return r
	}, s.scrub(text)))
}

func shorten(text string) string {
	const more = "…"
	if len(text) <= maxDescription {
		return text
	}
	return cut(text, maxDescription-len(more)) + more
}

// cut does not cut through a rune.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// scrub returns text with each occurrence of a secret replaced by "[redacted]";
// those that overlap become one.
func (s *scrubber) scrub(text string) string {
	if len(text) < minSecret || len(s.secrets) == 0 {
		return text
	}
	found := s.find(plain(text), maxLayers, nil)
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })

	var out strings.Builder
	end := 0
	for _, f := range found {
		if f.from >= end {
			out.WriteString(text[end:f.from])
			out.WriteString(redacted)
		}
		end = max(end, f.to)
	}
	out.WriteString(text[end:])
	return out.String()
}

// find appends where secrets stand in v and in all that v decodes to.
func (s *scrubber) find(v view, layers int, found []span) []span {
	data := lower(v.data)
	for _, secret := range s.secrets {
		start := secret[:min(len(secret), max(minStart, (len(secret)+1)/2))]
		last := -1 // in found: what this secret was last seen as
		// Occurrences may overlap, so the search goes on at the next byte. Those
		// that do are one.
		for i := 0; ; i++ {
			at := bytes.Index(data[i:], start)
			if at < 0 {
				break
			}
			i += at
			end := i + len(start)
			for end < len(data) && end-i < len(secret) && data[end] == secret[end-i] {
				end++
			}
			next := span{v.spans[i].from, v.spans[end-1].to}
			if last >= 0 && next.from <= found[last].to {
				found[last].to = max(found[last].to, next.to)
				continue
			}
			last = len(found)
			found = append(found, next)
		}
	}
	if layers == 0 {
		return found
	}
	for _, decode := range decoders {
		if decoded := decode(v); len(decoded.data) >= minSecret {
			found = s.find(decoded, layers-1, found)
		}
	}
	return found
}

// lower returns a copy. Only ASCII changes, so that no offset does.
func lower(data []byte) []byte {
	folded := make([]byte, len(data))
	for i, c := range data {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		folded[i] = c
	}
	return folded
}
