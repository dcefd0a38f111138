package tokensource

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// AccessTokenPlaceholder stands in a refresh request for the current access token:
// with it a refresh needs no refresh token.
const AccessTokenPlaceholder = "access_token"

// Body is a request's body that is written out, in the place of an encoding. In it
// {NAME} stands for the parameter of that name; parameters that do not stand in it
// are not sent. Values are escaped as the content type wants it.
type Body struct {
	ContentType string
	Template    string

	pieces []Piece // of Template, where all but parameters are resolved
}

// CheckContentType says whether a text is a content type.
func CheckContentType(text string) error {
	kind, _, err := mime.ParseMediaType(text)
	if err != nil || !strings.Contains(kind, "/") {
		return errors.New("this is no content type such as application/json")
	}
	return nil
}

// Places says whether a placeholder stands in the body.
func (b *Body) Places(name string) bool {
	return b != nil && slices.Contains(Placeholders(b.Template), name)
}

// escape returns what makes a value fit for a content type.
func (b *Body) escape() func(string) string {
	kind, _, _ := mime.ParseMediaType(b.ContentType)
	_, subtype, _ := strings.Cut(kind, "/")
	switch {
	case subtype == "json" || strings.HasSuffix(subtype, "+json"):
		return escapeJSON
	case subtype == "xml" || strings.HasSuffix(subtype, "+xml"):
		return escapeXML
	case kind == "application/x-www-form-urlencoded":
		return url.QueryEscape
	}
	return asItIs
}

// escapeJSON makes a text fit to stand between quotation marks.
func escapeJSON(text string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // of a text there is no error
	return strings.TrimSuffix(strings.TrimPrefix(out.String(), `"`), "\"\n")
}

func escapeXML(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text)) // to memory there is no error
	return out.String()
}

// body resolves what a template holds beside parameters.
func (e *expansion) body(b *Body) *Body {
	if b == nil {
		return nil
	}
	e.takesOthers = true
	defer func() { e.takesOthers = false }()
	resolved := &Body{ContentType: b.ContentType, Template: b.Template}
	escape := b.escape()
	for _, piece := range Pieces(b.Template) {
		if _, other := isOther(piece.Name); other || piece.Name == AccessTokenPlaceholder || piece.Name == RefreshTokenPlaceholder || e.knows(piece.Name) {
			value, err := e.placed("body", "{"+piece.Name+"}", asItIs)
			if e.err == nil {
				e.err = err
			}
			piece = Piece{Literal: escape(value)}
		}
		resolved.pieces = append(resolved.pieces, piece)
	}
	return resolved
}

// write makes it the body of a request.
func (b *Body) write(req *http.Request, parameters url.Values) error {
	escape := b.escape()
	var out strings.Builder
	for _, piece := range b.pieces {
		switch values := parameters[piece.Name]; {
		case piece.Name == "":
			out.WriteString(piece.Literal)
		case len(values) == 0:
			return TransportError("body: there is nothing that {" + piece.Name + "} could stand for")
		default:
			out.WriteString(escape(values[0]))
		}
	}
	setBody(req, b.ContentType, []byte(out.String()))
	return nil
}

// bodyParameters are those that a template can hold: all that would be sent, and who
// the client is, whichever way that is told.
func bodyParameters(set *settings, texts url.Values) url.Values {
	all := url.Values{}
	for name, value := range map[string]string{"client_id": set.clientID, "client_secret": set.clientSecret} {
		if value != "" {
			all.Set(name, value)
		}
	}
	for name, values := range texts {
		all[name] = values
	}
	return all
}
