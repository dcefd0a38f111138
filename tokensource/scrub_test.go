package tokensource

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	stdhtml "html"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// encodings are those in which a provider may echo a secret, one name each.
var encodings = []struct {
	name   string
	encode func(string) string
}{
	{"plain", func(s string) string { return s }},
	{"upper case", asciiUpper},
	{"query", url.QueryEscape},
	{"path", url.PathEscape},
	{"query, lower-case hex", func(s string) string { return lowerEscapes(url.QueryEscape(s)) }},
	{"path, lower-case hex", func(s string) string { return lowerEscapes(url.PathEscape(s)) }},
	{"every byte percent-encoded", func(s string) string { return eachByte(s, "%%%02X") }},
	{"every byte percent-encoded, lower case", func(s string) string { return eachByte(s, "%%%02x") }},
	{"percent-encoded twice", func(s string) string { return url.QueryEscape(url.PathEscape(s)) }},
	{"JSON", func(s string) string { return inJSON(s, true) }},
	{"JSON without HTML escaping", func(s string) string { return inJSON(s, false) }},
	{"JSON in JSON", func(s string) string { return inJSON(inJSON(s, true), true) }},
	{"every unit as \\uXXXX", func(s string) string { return eachUnit(s, `\u%04X`) }},
	{"every unit as \\uxxxx", func(s string) string { return eachUnit(s, `\u%04x`) }},
	{"every byte as \\xXX", func(s string) string { return eachByte(s, `\x%02x`) }},
	{"HTML", stdhtml.EscapeString},
	{"HTML in JSON", func(s string) string { return inJSON(stdhtml.EscapeString(s), true) }},
	{"hex", func(s string) string { return hex.EncodeToString([]byte(s)) }},
	{"upper-case hex", func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) }},
	{"base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }},
	{"base64 unpadded", func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) }},
	{"base64url", func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) }},
	{"base64url unpadded", func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }},
	{"base64 in a query", func(s string) string { return url.QueryEscape(base64.RawStdEncoding.EncodeToString([]byte(s))) }},
	{"base64 in PHP's JSON", func(s string) string {
		return strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(s)), "/", `\/`)
	}},
	{"a query in base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s))) }},
}

func asciiUpper(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

// lowerEscapes changes the escapes of a percent-encoded text alone.
func lowerEscapes(s string) string {
	out := []byte(s)
	for i := range out {
		if out[i] == '%' {
			copy(out[i:i+3], bytes.ToLower(out[i:i+3]))
		}
	}
	return string(out)
}

func eachByte(s, format string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&out, format, c)
	}
	return out.String()
}

func eachUnit(s, format string) string {
	var out strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&out, format, unit)
	}
	return out.String()
}

func inJSON(s string, escapeHTML bool) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(escapeHTML)
	if err := encoder.Encode(s); err != nil {
		panic(err)
	}
	quoted := strings.TrimSpace(out.String())
	return quoted[1 : len(quoted)-1]
}

func randomText(random *rand.Rand, alphabet string, least, most int) string {
	runes := []rune(alphabet)
	text := make([]rune, least+random.IntN(most-least+1))
	for i := range text {
		text[i] = runes[random.IntN(len(runes))]
	}
	return string(text)
}

const (
	printable = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
	awkward   = "\"\\/&<>'+% =;uxn0aä€😀\u2028\t\n"
)

// innocent has no secret in it, and much that looks like an encoding.
var innocent = []string{
	"", "the", "client authentication failed: 100% sure", "AADSTS7000215: Invalid client secret provided.",
	`C:\users\new`, "a&b;c", "&amp;&lt;&#x;&nosuch;", "dGhlIHF1aWNrIGJyb3duIGZveA==", "/oauth2/v2.0/token?x=%41%zz%", "6e6f7468696e67",
	`\ud83d\ude00 \ud83d \u12`, "größer 😀", "trailing \\", "a==b===c", "\xff\xfe",
}

func TestASecretIsTakenOutOfATextInEveryEncodingAndNothingElse(t *testing.T) {
	for _, alphabet := range []string{printable, awkward, "ab", "0123456789abcdef"} {
		random := rand.New(rand.NewPCG(1, uint64(len(alphabet))))
		for range 60 {
			secret := randomText(random, alphabet, 8, 40)
			s := newScrubber("another secret", secret)
			before, after := innocent[random.IntN(len(innocent))], innocent[random.IntN(len(innocent))]
			for _, encoding := range encodings {
				echo := encoding.encode(secret)
				// The blank keeps text that ends in half an escape apart.
				got := s.scrub(before + " >" + echo + "< " + after)
				if want := before + " >[redacted]< " + after; got != want {
					t.Errorf("%q as %s:\n got %q\nwant %q", secret, encoding.name, got, want)
				}
			}
		}
	}
}

func TestASecretWithinALongerBase64TextIsTakenOutToItsLastBit(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		secret := randomText(random, printable, 8, 30)
		before := randomText(random, "idclient:", 0, 9)
		after := randomText(random, ":&=more", 1, 9)
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString([]byte(before + secret + after))
			// Six bits a digit: the first and the last that hold a bit of it.
			first, last := len(before)*8/6, ((len(before)+len(secret))*8-1)/6
			want := text[:first] + redacted + text[last+1:]
			if trimmed := strings.TrimRight(text, "="); last+1 == len(trimmed) {
				want = text[:first] + redacted
			}
			if got := newScrubber(secret).scrub("Basic " + text); got != "Basic "+want {
				t.Errorf("%q in %q:\n got %q\nwant %q", secret, text, got, "Basic "+want)
			}
		}
	}
}

func TestBasicCredentialsAreFoundAsRFC6749WritesThem(t *testing.T) {
	const secret = "s3cr&t/+ä 100%"
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape("my client")+":"+url.QueryEscape(secret)))
	quoted := strings.ReplaceAll(inJSON(header, true), "/", `\/`)
	for _, text := range []string{header, quoted, url.QueryEscape(header)} {
		got := newScrubber(secret).scrub(text)
		if !strings.HasSuffix(got, redacted) {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestSecretsThatOverlapLeaveNothingBehind(t *testing.T) {
	for _, test := range []struct {
		secrets    []string
		text, want string
	}{
		{[]string{"abcd", "abcdef"}, "x abcdef y", "x [redacted] y"},
		{[]string{"abcdef", "abcd"}, "abcdef abcd", "[redacted] [redacted]"},
		{[]string{"abcdef", "efghij"}, "<abcdefghij>", "<[redacted]>"},
		{[]string{"abcdab"}, "<abcdabcdab>", "<[redacted]>"},
		{[]string{"pass", "word"}, "password", "[redacted][redacted]"},
		{[]string{"same", "same", "SAME"}, "Same", "[redacted]"},
		{[]string{"redacted"}, "is redacted", "is [redacted]"},
	} {
		if got := newScrubber(test.secrets...).scrub(test.text); got != test.want {
			t.Errorf("%q without %q: %q, want %q", test.text, test.secrets, got, test.want)
		}
	}
}

func TestInnocentTextIsLeftAsItIs(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	secrets := []string{"", "a", "the", "%41", "\\u1"}
	for range 20 {
		secrets = append(secrets, "#"+randomText(random, printable, 8, 40))
	}
	s := newScrubber(secrets...)
	for _, text := range innocent {
		if got := s.scrub(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestEveryTextOfAnErrorIsScrubbed(t *testing.T) {
	const secret = "hunter2hunter2"
	e := &Error{
		Code: "bad_" + secret, Description: "no " + url.QueryEscape(secret), URI: "https://e.example.org/?s=" + secret,
		Reason: "a redirect to " + secret + ".example.org", StatusCode: 400, Permanent: true,
	}
	newScrubber(secret).error(e)
	want := &Error{
		Code: "bad_[redacted]", Description: "no [redacted]", URI: "https://e.example.org/?s=[redacted]",
		Reason: "a redirect to [redacted].example.org", StatusCode: 400, Permanent: true,
	}
	if describe(e) != describe(want) {
		t.Errorf("\n got %+v\nwant %+v", describe(e), describe(want))
	}
}

func TestASecretIsNeverCutInsteadOfScrubbed(t *testing.T) {
	secret := "Zq" + strings.Repeat("7x", 20)
	for at := range maxDescription + 10 {
		e := &Error{Description: strings.Repeat(".", at) + secret + strings.Repeat("ä", maxDescription)}
		newScrubber(secret).error(e)
		text := e.Description
		if strings.Contains(text, "Zq") || strings.Contains(text, "7x") || len(text) > maxDescription ||
			!strings.HasSuffix(text, "…") || !utf8.ValidString(text) {
			t.Fatalf("at %d: %q", at, text)
		}
	}
	// What is longer than can be looked through is not shown at all.
	e := &Error{Description: strings.Repeat(secret, maxScrubbed/len(secret)) + secret}
	if newScrubber(secret).error(e); e.Description != "" {
		t.Errorf("%q", e.Description)
	}
}

func TestASecretWithALineBreakIsFoundBeforeTheBreakBecomesABlank(t *testing.T) {
	e := &Error{Description: "key\r\nis -----BEGIN\nKEY-----\u202e\x1b[31m"}
	newScrubber("-----BEGIN\nKEY-----").error(e)
	if want := "key  is [redacted]  [31m"; e.Description != want {
		t.Errorf("%q, want %q", e.Description, want)
	}
}

// The limit is far from what linear time takes, and from what else would take:
// minutes.
func TestScrubbingTakesNoTimeWhateverTheText(t *testing.T) {
	secrets := []string{strings.Repeat("a", 30<<10) + "b", strings.Repeat("a", 1000), "aaaa", strings.Repeat("%", 5000) + "b"}
	for _, unit := range []string{"a", "%61", "%25", `\u0061`, `\\`, "&#97;", "&", "&amp", "YWFh", "61", "+", "%", "=", "\xff"} {
		text := strings.Repeat(unit, maxScrubbed/len(unit))
		started := time.Now()
		newScrubber(secrets...).scrub(text)
		if took := time.Since(started); took > 20*time.Second {
			t.Errorf("%q: took %v", unit, took)
		}
	}
}

func TestASecretIsFoundWhereItIsWrappedOrCutOff(t *testing.T) {
	const secret = "s3cr3t-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGH-xyzzy"
	encoded := base64.StdEncoding.EncodeToString([]byte("legacy-script-with-a-long-name:" + secret))
	for text, want := range map[string]string{
		"bad header Basic " + encoded[:76] + "\r\n" + encoded[76:]: "bad header Basic bGVnYWN5LXNjcmlwdC13aXRoLWEtbG9uZy1uYW1lO[redacted]",
		"bad secret " + secret[:40] + "...":                        "bad secret [redacted]...",
		"bad secret " + secret[:10] + "...":                        "bad secret " + secret[:10] + "...", // might be a word
	} {
		if got := newScrubber(secret).scrub(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	for _, secret := range []string{"s3cr3t\n", "s3cr3t ", "hunter2\r", "p4ss w0rd"} { // of a file, of which a provider trims
		said := "unknown secret '" + strings.TrimSpace(secret) + "'"
		if got := newScrubber(secret).scrub(said); got != "unknown secret '[redacted]'" {
			t.Errorf("%q: got %q", secret, got)
		}
	}
}

// An answer says itself what is secret in it.
func TestAnAnswerMadeToBeScrubbedTakesLittle(t *testing.T) {
	var pieces []string
	for i := range mostPieces {
		pieces = append(pieces, strings.Repeat("a", minPiece+i))
	}
	s := newScrubber(strings.Join(pieces, ";"))
	text := strings.Repeat("a", maxScrubbed-400) + strings.Repeat(`+%\&`, 80)
	found := s.find(plain(text), maxLayers, nil)
	if len(found) > 10_000 {
		t.Errorf("%d places were found", len(found))
	}
}

func FuzzScrub(f *testing.F) {
	for i := range encodings {
		f.Add("s3cr&t/+ä 100%", innocent[i%len(innocent)], "after", uint(i))
	}
	f.Fuzz(func(t *testing.T, secret, before, after string, encoding uint) {
		if len(secret) < minSecret || !utf8.ValidString(secret) || len(before)+len(secret)+len(after) > 1000 {
			t.Skip()
		}
		echo := encodings[encoding%uint(len(encodings))].encode(secret)
		text := before + " " + echo + " " + after
		s := newScrubber(secret)
		// Each byte of the echo must be in what is taken out.
		found := s.find(plain(text), maxLayers, nil)
		start := len(before) + 1
		for i := start; i < start+len(echo); i++ {
			if !slices.ContainsFunc(found, func(at span) bool { return at.from <= i && i < at.to }) {
				t.Fatalf("byte %d of %q is left in %q", i-start, echo, s.scrub(text))
			}
		}
		for piece := range strings.SplitSeq(s.scrub(text), redacted) {
			if bytes.Contains(lower([]byte(piece)), lower([]byte(secret))) {
				t.Fatalf("%q still stands in %q", secret, piece)
			}
		}
	})
}
