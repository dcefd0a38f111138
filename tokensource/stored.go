package tokensource

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// stored is a token as Encode writes it.
type stored struct {
	AccessToken  string            `json:"access_token"`
	RefreshToken string            `json:"refresh_token,omitempty"`
	Issued       time.Time         `json:"issued"`
	Lifetime     time.Duration     `json:"lifetime,omitempty"`
	Said         bool              `json:"lifetime_said,omitempty"`
	Scopes       []string          `json:"scopes,omitempty"`
	Exposed      map[string]string `json:"exposed,omitempty"`
	Exposes      map[string]string `json:"exposes,omitempty"`
	Found        *tokenEndpoint    `json:"token_endpoint,omitempty"`
	Asked        string            `json:"asked,omitempty"`
	Template     string            `json:"template,omitempty"`
	ProofKey     json.RawMessage   `json:"dpop_key,omitempty"`
	Descents     []storedDescent   `json:"descents,omitempty"`
}

type storedDescent struct {
	Seed  string `json:"seed"`
	Token string `json:"token"`
}

// Encode returns a token as a text that Decode reads, in this process or in
// another one. It holds the token's secrets.
func (t *Token) Encode() ([]byte, error) {
	proof, err := t.proof.encode()
	if err != nil {
		return nil, errors.New("the token's DPoP key cannot be written")
	}
	out := stored{
		AccessToken:  t.AccessToken,
		RefreshToken: t.RefreshToken,
		Issued:       t.Issued.Round(0),
		Lifetime:     t.Lifetime,
		Said:         t.said,
		Scopes:       t.Scopes,
		Exposed:      t.Exposed,
		Exposes:      t.exposes,
		Found:        t.found,
		Asked:        t.asked,
		Template:     t.template,
		ProofKey:     proof,
	}
	for _, d := range t.descents {
		out.Descents = append(out.Descents, storedDescent{Seed: d.seed, Token: d.token})
	}
	return json.Marshal(out)
}

// Decode reads what Encode has written. Its errors show nothing of the text.
func Decode(text []byte) (*Token, error) {
	var in stored
	if json.Unmarshal(text, &in) != nil {
		return nil, errors.New("this is no token")
	}
	if in.AccessToken == "" || strings.ContainsFunc(in.AccessToken, isControl) || in.Lifetime < 0 || in.Issued.IsZero() {
		return nil, errors.New("this token is not whole")
	}
	proof, err := decodeProofKey(in.ProofKey)
	if err != nil {
		return nil, err
	}
	t := &Token{
		AccessToken:  in.AccessToken,
		RefreshToken: in.RefreshToken,
		Issued:       in.Issued,
		Lifetime:     in.Lifetime,
		said:         in.Said,
		Scopes:       in.Scopes,
		Exposed:      showable(in.Exposed),
		exposes:      in.Exposes,
		found:        in.Found,
		asked:        in.Asked,
		template:     in.Template,
		proof:        proof,
	}
	for _, d := range in.Descents {
		t.descents = append(t.descents, descent{d.Seed, d.Token})
	}
	return t, nil
}
