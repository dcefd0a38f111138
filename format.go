package injecttoken

import (
	"encoding/base64"
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddytoken/inject-token/tokensource"
)

// BasicInjection is the Basic credentials of a request, of which one is or holds
// the token.
type BasicInjection struct {
	// The user's name. It takes the placeholders that the format of a header
	// field takes, and holds no colon.
	Username string `json:"username"`

	// The password, with the same placeholders.
	Password string `json:"password"`
}

const (
	tokenPlaceholder  = "{token}"
	responsePrefix    = "response." // a value that the answer with the token had
	sourcePrefix      = "source."   // the token of another source
	fieldOfBasic      = "Authorization"
	formatPlaceholder = "{token}, {response.NAME}, {source.NAME}, {env.*}, {file.*} and {system.*}"
)

// format is what stands in one header field.
type format struct {
	option string // by which it was written
	field  string // its canonical name
	value  []tokensource.Piece
	user   []tokensource.Piece // of Basic credentials, whose password is value; else nil
	bound  []tokensource.Piece // in the place of value, of a token that is bound to a key; nil: value
}

// newFormat reads a format, or says what is wrong with it. What stands in it is
// not shown: it may be a secret.
func newFormat(option, field, text string) (format, *mistake) {
	f := format{option: option, field: textproto.CanonicalMIMEHeaderKey(field), value: tokensource.Pieces(text)}
	return f, f.check(f.value, text)
}

func newBasic(b *BasicInjection) (format, *mistake) {
	f := format{option: "basic", field: fieldOfBasic, user: tokensource.Pieces(b.Username), value: tokensource.Pieces(b.Password)}
	if b.Username == "" && b.Password == "" {
		return f, wrong("basic", "both are empty; write basic USER PASSWORD")
	}
	for _, piece := range f.user {
		if strings.Contains(piece.Literal, ":") {
			return f, wrong("basic", "the user holds a colon, which would end it")
		}
	}
	if m := f.check(f.user, b.Username); m != nil {
		return f, m
	}
	return f, f.check(f.value, b.Password)
}

func (f *format) check(pieces []tokensource.Piece, text string) *mistake {
	for _, piece := range pieces {
		if piece.Name != "" && !isOfFormat(piece.Name) {
			return f.wrong("the format of %s holds an unknown placeholder in braces; there are %s, and \\{ is a brace that means itself", f.field, formatPlaceholder)
		}
	}
	literal := literalOf(pieces)
	if strings.Count(literal, "{") > strings.Count(text, `\{`) || strings.Count(literal, "}") > strings.Count(text, `\{`) {
		return f.wrong("the format of %s holds a brace that belongs to no placeholder; \\{ is one that means itself", f.field)
	}
	if !httpguts.ValidHeaderFieldValue(literal) {
		return f.wrong("the format of %s holds control characters", f.field)
	}
	return nil
}

// wrong is a mistake in this format, of those that there are.
func (f *format) wrong(text string, args ...any) *mistake {
	m := wrong(f.option, text, args...)
	if f.user == nil {
		m.option += " " + f.field
	}
	return m
}

func isOfFormat(name string) bool {
	response, isResponse := strings.CutPrefix(name, responsePrefix)
	source, isSource := strings.CutPrefix(name, sourcePrefix)
	switch {
	case name == "token", isRuntime(name):
		return true
	case isResponse:
		return exposedName.MatchString(response)
	}
	return isSource && sourceName.MatchString(source)
}

func literalOf(pieces []tokensource.Piece) string {
	var literal strings.Builder
	for _, piece := range pieces {
		literal.WriteString(piece.Literal)
	}
	return literal.String()
}

// names returns the names of all placeholders that begin with prefix, without it.
func (f *format) names(prefix string) (names []string) {
	for _, piece := range slices.Concat(f.user, f.value) {
		if name, ok := strings.CutPrefix(piece.Name, prefix); ok && piece.Name != "" {
			names = append(names, name)
		}
	}
	return names
}

// changes says whether the format holds what may change while the token does not.
func (f *format) changes() bool {
	return slices.ContainsFunc(slices.Concat(f.user, f.value), func(p tokensource.Piece) bool { return isRuntime(p.Name) })
}

// literalWarning is to be said of a secret that stands in the configuration.
func (f *format) literalWarning() string {
	if f.isLiteralSecret() {
		return literalWarning(literalOf(f.value))
	}
	return ""
}

// isLiteralSecret says whether the value itself is a secret. What stands in the place
// of a password beside a token is none: many APIs want any word there.
func (f *format) isLiteralSecret() bool {
	for _, piece := range f.value {
		if piece.Name != "" {
			return false
		}
	}
	if f.user != nil {
		return !slices.Contains(f.names(""), "token")
	}
	return tokensource.IsSecretName(f.field)
}

// forming makes header values of formats, and notes what of it is to be hidden.
type forming struct {
	token   *tokensource.Token
	source  string                        // that it is of
	others  map[string]*tokensource.Token // of other sources, by their names
	secrets []string
}

// unformed says why there are no values although there is a token. Its text is one
// sentence, without values.
type unformed struct{ text string }

func (u *unformed) Error() string { return u.text }

// form returns the value of a field.
func (g *forming) form(f *format) (string, error) {
	pieces := f.value
	if f.bound != nil && g.token.IsBound() {
		pieces = f.bound
	}
	value, err := g.text(f, pieces)
	if err != nil {
		return "", err
	}
	if f.isLiteralSecret() {
		g.secret(value)
	}
	if f.user != nil {
		user, err := g.text(f, f.user)
		if err != nil {
			return "", err
		}
		if strings.Contains(user, ":") {
			return "", &unformed{"the user of basic holds a colon, which would end it"}
		}
		value = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+value))
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return "", &unformed{f.option + ": a placeholder of " + f.field + " stands for a value with line breaks or other control characters"}
	}
	return value, nil
}

func (g *forming) text(f *format, pieces []tokensource.Piece) (string, error) {
	var out strings.Builder
	for _, piece := range pieces {
		value, err := g.piece(f, piece)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
	}
	return out.String(), nil
}

func (g *forming) piece(f *format, piece tokensource.Piece) (string, error) {
	if piece.Name == "" {
		return piece.Literal, nil
	}
	if piece.Name == "token" {
		return g.secret(g.token.AccessToken), nil
	}
	if name, ok := strings.CutPrefix(piece.Name, responsePrefix); ok {
		value, ok := g.token.Exposed[name]
		if !ok {
			return "", &unformed{"the answer of the provider of the token source " + g.source + " has nothing for {response." + name + "}"}
		}
		return value, nil
	}
	if name, ok := strings.CutPrefix(piece.Name, sourcePrefix); ok {
		return g.secret(g.others[name].AccessToken), nil
	}
	value, _ := lookup(piece.Name)
	if value == "" {
		return "", &unformed{f.option + ": the placeholder {" + piece.Name + "} is empty or cannot be read"}
	}
	// What an environment variable or a file holds may as well be a word that
	// answers are full of.
	if strings.HasPrefix(piece.Name, "file.") || strings.HasPrefix(piece.Name, "env.") && (tokensource.IsSecretName(piece.Name) || tokensource.IsSecretName(f.field)) {
		g.secret(value)
	}
	return value, nil
}

func (g *forming) secret(value string) string {
	g.secrets = append(g.secrets, value)
	return value
}

// checkFormats wants what formats name to exist: other sources, and what the
// transport's own expose.
func (in *injection) checkFormats(own, all map[string]*Source) *mistake {
	for i := range in.formats {
		f := &in.formats[i]
		for _, name := range f.names(sourcePrefix) {
			if all[name] == nil {
				return f.wrong("the format of %s: %v", f.field, unknownSource(name, all))
			}
			if all[name].takesCallers() {
				return f.wrong("the format of %s: the source %s has a token for each caller, and none of its own", f.field, name)
			}
		}
		for _, name := range f.names(responsePrefix) {
			for _, source := range slices.Sorted(maps.Keys(own)) {
				if s := own[source]; s != nil && !s.exposes(name) {
					return f.wrong("the format of %s: {response.%s} stands for nothing, for the source %s does not expose it; write token_response { expose %[2]s PATH } there", f.field, name, source)
				}
			}
		}
	}
	return nil
}
