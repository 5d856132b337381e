// Reads Kubernetes manifests from standard input and checks those that are OpenShift's own against its types: unknown
// fields, fields given twice and values of another kind are errors. Prints the kind and name of each that it checked, and
// the objects that a template makes, with x for each parameter that has no value.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	securityv1 "github.com/openshift/api/security/v1"
	templatev1 "github.com/openshift/api/template/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlreader "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(input io.Reader) error {
	reader := yamlreader.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &head); err != nil {
			return err
		}
		var object any
		switch head.APIVersion + " " + head.Kind {
		case "security.openshift.io/v1 SecurityContextConstraints":
			object = &securityv1.SecurityContextConstraints{}
		case "template.openshift.io/v1 Template":
			object = &templatev1.Template{}
		default:
			continue
		}
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return fmt.Errorf("%s %s: %w", head.Kind, head.Name, err)
		}
		fmt.Println(head.Kind, head.Name)
		if template, ok := object.(*templatev1.Template); ok {
			for _, made := range template.Objects {
				fmt.Println(filled(template, string(made.Raw)))
			}
		}
	}
}

// filled is what becomes of a template's object.
func filled(template *templatev1.Template, object string) string {
	for _, parameter := range template.Parameters {
		value := parameter.Value
		if value == "" {
			value = "x"
		}
		object = strings.NewReplacer(`"${{`+parameter.Name+`}}"`, value, "${"+parameter.Name+"}", value).Replace(object)
	}
	return object
}
